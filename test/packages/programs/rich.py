# package: rich
# load: rich rich.console rich.table rich.markdown rich.syntax
from rich.console import Console
from rich.markdown import Markdown
from rich.syntax import Syntax
from rich.table import Table

console = Console(width=60, force_terminal=True, color_system='truecolor')
table = Table('name', 'size', title='a table')
table.add_row('[bold]one[/bold]', '1')
console.print(table)
console.print(Markdown('# title\n\n- a\n- b'), Syntax('def f(): return 1', 'python'))
print(Console().is_terminal, Console().width)
