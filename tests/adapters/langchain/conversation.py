"""A LangGraph graph that stops for approval, run in processes of its own: one for each turn.

    python -m tests.adapters.langchain.conversation ask|resume <checkpoints> real|fake|<url> <place>

`place` is the state directory, or the token for the service at the URL. It prints what the last
tool message says, as JSON.
"""

import json
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from langchain_core.messages import AIMessage, HumanMessage, ToolMessage
from langchain_core.runnables import RunnableConfig
from langgraph.checkpoint.base import BaseCheckpointSaver
from langgraph.checkpoint.postgres import PostgresSaver
from langgraph.checkpoint.sqlite import SqliteSaver
from langgraph.graph import END, START, MessagesState, StateGraph
from langgraph.prebuilt import ToolNode
from langgraph.types import Command, interrupt

from ci_tools import Settings
from ci_tools.testing import FakeBackend
from langchain_ci_tools import CodeInterpreterToolkit, to_step
from tests.adapters.langchain.scripted import ScriptedModel, call

CONFIG: RunnableConfig = {"configurable": {"thread_id": "conversation"}}

FIRST = "x = 41; open('kept.txt', 'w').write('kept'); x"

SECOND = "print(open('kept.txt').read()); x + 1"


def build(toolkit: CodeInterpreterToolkit, checkpoints: BaseCheckpointSaver[Any]) -> Any:
    """Return the graph: the model, approval of all calls but the first, the tools."""
    model = ScriptedModel()

    def think(state: MessagesState) -> dict[str, Any]:
        ran = [message for message in state["messages"] if isinstance(message, ToolMessage)]
        turns = [call("run_code", "1", code=FIRST), call("run_code", "2", code=SECOND), "Done."]
        model.script = [turns[len(ran)]]
        return {"messages": [model.invoke(state["messages"])]}

    def approve(state: MessagesState) -> None:
        if any(isinstance(message, ToolMessage) for message in state["messages"]):
            assert interrupt("May it go on?") == "yes"

    def route(state: MessagesState) -> str:
        last = state["messages"][-1]
        return "approve" if isinstance(last, AIMessage) and last.tool_calls else END

    graph = StateGraph(MessagesState)
    graph.add_node("think", think)
    graph.add_node("approve", approve)
    graph.add_node("tools", ToolNode(toolkit.get_tools("run_code")))
    graph.add_edge(START, "think")
    graph.add_conditional_edges("think", route)
    graph.add_edge("approve", "tools")
    graph.add_edge("tools", "think")
    return graph.compile(checkpointer=checkpoints)


def open_toolkit(where: str, place: str) -> CodeInterpreterToolkit:
    if where in ("real", "fake"):
        backend = FakeBackend(Path(place) / "folders") if where == "fake" else None
        return CodeInterpreterToolkit.local(Settings(state_dir=Path(place)), backend=backend)
    return CodeInterpreterToolkit.connect(where, place)


def main(turn: str, checkpoints: str, where: str, place: str) -> None:
    with ExitStack() as stack:
        saver: BaseCheckpointSaver[Any]
        if checkpoints.startswith("postgresql:"):
            saver = postgres = stack.enter_context(PostgresSaver.from_conn_string(checkpoints))
            postgres.setup()
        else:
            saver = stack.enter_context(SqliteSaver.from_conn_string(checkpoints))
        graph = build(stack.enter_context(open_toolkit(where, place)), saver)
        question: Any = {"messages": [HumanMessage("Compute.")]}
        done = graph.invoke(question if turn == "ask" else Command(resume="yes"), CONFIG)
    results = [message for message in done["messages"] if isinstance(message, ToolMessage)]
    # The earlier ones come out of the checkpoint.
    steps = [to_step(message.artifact) for message in results]
    print(
        json.dumps(
            {
                "content": results[-1].content,
                "status": results[-1].status,
                "steps": [[step.id, step.session_id, step.epoch] for step in steps],
                "is_waiting": "__interrupt__" in done,
            }
        )
    )


if __name__ == "__main__":
    main(*sys.argv[1:])
