# package: sqlalchemy
# load: sqlalchemy sqlalchemy.orm sqlalchemy.dialects.sqlite
from sqlalchemy import ForeignKey, create_engine, func, select
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column, relationship


class Base(DeclarativeBase):
    pass


class Town(Base):
    __tablename__ = 'town'
    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str]
    streets: Mapped[list['Street']] = relationship(back_populates='town')


class Street(Base):
    __tablename__ = 'street'
    id: Mapped[int] = mapped_column(primary_key=True)
    length: Mapped[float]
    town_id: Mapped[int] = mapped_column(ForeignKey('town.id'))
    town: Mapped[Town] = relationship(back_populates='streets')


engine = create_engine('sqlite:///data.db')
Base.metadata.create_all(engine)
with Session(engine) as session:
    session.add_all([Town(name=n, streets=[Street(length=i * k) for i in range(4)]) for k, n in enumerate('xyz')])
    session.commit()
    query = select(Town.name, func.sum(Street.length)).join(Street).group_by(Town.name).order_by(Town.name)
    print(session.execute(query).all(), str(query).split())
    print([s.length for s in session.scalars(select(Town).where(Town.name == 'y')).one().streets])
