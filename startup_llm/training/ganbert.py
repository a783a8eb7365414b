"""The name under which published model cards import `load_ganbert`."""

from startup_llm.gan.ganbert import load_ganbert

__all__ = ["load_ganbert"]
