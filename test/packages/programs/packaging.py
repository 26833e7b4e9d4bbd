# package: packaging
# load: packaging.version packaging.requirements packaging.tags
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.tags import sys_tags
from packaging.version import Version

print(sorted(map(Version, ['1.10', '1.9', '2.0rc1', '2.0.post1', '2.0'])), list(SpecifierSet('~=1.4').filter(['1.3', '1.9', '2.0'])))
requirement = Requirement('thing[a]>=2; python_version > "3.5"')
print(requirement.name, requirement.extras, requirement.marker.evaluate(), str(next(sys_tags())))
