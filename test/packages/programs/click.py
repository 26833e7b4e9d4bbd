# package: click
# load: click
# run: python app.py greet --count 2 name
import click


@click.group()
def main():
    pass


@main.command()
@click.option('--count', default=1, help='How often.')
@click.argument('name')
def greet(count, name):
    for _ in range(count):
        click.secho('hello %s' % name, fg='green')
    click.echo(click.get_current_context().get_help())


main()
