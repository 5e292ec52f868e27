"""The tools without any model: what an agent would call, called by hand."""

from langchain_core.runnables import RunnableConfig

from langchain_ci_tools import CodeInterpreterToolkit, to_step

PLOT = """\
import matplotlib.pyplot as plt
plt.plot(range(total))
plt.savefig("plot.png")
"""

with CodeInterpreterToolkit.local() as toolkit:
    [run_code] = toolkit.get_tools("run_code")
    config: RunnableConfig = {"configurable": {"thread_id": "example"}}

    toolkit.upload_file("numbers.csv", "n\n1\n2\n3\n", config)
    code = "import csv\ntotal = sum(int(row['n']) for row in csv.DictReader(open('numbers.csv')))"
    run_code.invoke({"code": code}, config)
    print("total:", run_code.invoke({"code": "total"}, config))

    # As an agent calls it: the message has a status, and the run step as its artifact.
    call = {"name": "run_code", "args": {"code": "1 / 0"}, "id": "call_1", "type": "tool_call"}
    message = run_code.invoke(call, config)
    print(message.status, to_step(message.artifact).error)

    run_code.invoke({"code": PLOT}, config)
    print([file.path for file in toolkit.list_files(config)])
    print(f"{len(toolkit.download_file('plot.png', config)):,} bytes of plot")
