"""The y-websocket protocol: `/v1/ws/<service>/<room>` for unmodified y-websocket clients."""

from ds_sync_ywebsocket.gateway import YWebsocketGateway

__all__ = ["YWebsocketGateway"]
