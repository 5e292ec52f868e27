"""Models behind the Assistants API: found by name, asked turn by turn, whoever provides them."""

from ci_tools_assistants.models.answer import LARGE
from ci_tools_assistants.models.arguments import load_object
from ci_tools_assistants.models.code_argument import (
    CODE_TOOL,
    CodeArgumentDecoder,
    create_code_tool,
    find_code,
)
from ci_tools_assistants.models.conversation import Conversation, LoadImage, ToolResult
from ci_tools_assistants.models.exchange import (
    ArgumentsDelta,
    Call,
    CallStarted,
    Finish,
    RefusalDelta,
    TextDelta,
    TurnDone,
    TurnEvent,
    TurnRequest,
    Usage,
)
from ci_tools_assistants.models.failures import ModelError, ModelNotConfigured
from ci_tools_assistants.models.own_words import from_stored, to_stored
from ci_tools_assistants.models.prompt import Prompt, build_prompt
from ci_tools_assistants.models.registry import ModelRegistry, open_registry
from ci_tools_assistants.models.turn import ChatModel

__all__ = [
    "CODE_TOOL",
    "LARGE",
    "ArgumentsDelta",
    "Call",
    "CallStarted",
    "ChatModel",
    "CodeArgumentDecoder",
    "Conversation",
    "Finish",
    "LoadImage",
    "ModelError",
    "ModelNotConfigured",
    "ModelRegistry",
    "Prompt",
    "RefusalDelta",
    "TextDelta",
    "ToolResult",
    "TurnDone",
    "TurnEvent",
    "TurnRequest",
    "Usage",
    "build_prompt",
    "create_code_tool",
    "find_code",
    "from_stored",
    "load_object",
    "open_registry",
    "to_stored",
]
