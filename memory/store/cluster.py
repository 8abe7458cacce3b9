"""Redis Cluster: finds the node of a key.

All keys of a tenant are on one node (key_names.py), so the store uses that node like a single server, with the same scripts,
pipelines and waits. redis-py keeps the map of slots.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

from redis.asyncio import BlockingConnectionPool, Connection, Redis, RedisCluster, SSLConnection
from redis.asyncio.cluster import ClusterNode
from redis.exceptions import AskError, ClusterDownError, RedisClusterException, TryAgainError
from redis.exceptions import ConnectionError as NotConnected

ELSEWHERE = (AskError, ClusterDownError, TryAgainError)  # the key's slot has moved or is moving; nothing was done


class Cluster:
    """A client for each primary of a cluster, made at its first use.

    Args:
        addresses: (host, port) of some nodes, which name the others.
        connections: the most to each node.
        options: of every connection.
    """

    def __init__(
        self, addresses: Sequence[tuple[str, int]], *, tls: bool, timeout_s: float, connections: int, options: dict[str, Any]
    ) -> None:
        self.addresses, self.tls, self.options = addresses, tls, options
        self._timeout_s, self._connections = timeout_s, connections
        self._map: RedisCluster | None = None
        self._clients: dict[tuple[str, int], Redis] = {}
        self._asking = asyncio.Lock()

    def of(self, key: str) -> Redis:
        """The client of the primary that holds a key. Raises redis.ConnectionError before `ask`, or for a slot without a node."""
        try:
            node = self._known.get_node_from_key(key)
        except RedisClusterException as error:
            raise NotConnected(str(error)) from error
        if node is None:
            raise NotConnected("no node of the cluster holds this key's slot")
        return self._client(node)

    def primaries(self) -> list[Redis]:
        """Clients of all primaries. Raises redis.ConnectionError before `ask`."""
        return [self._client(node) for node in self._known.get_primaries()]

    @property
    def _known(self) -> RedisCluster:
        if self._map is None:
            raise NotConnected("the cluster has not answered yet")
        return self._map

    @property
    def own_patience(self) -> dict[str, Any]:
        """The options for clients with a retry of their own, as redis-py's cluster client has."""
        return {name: value for name, value in self.options.items() if name != "retry"}

    def _client(self, node: ClusterNode) -> Redis:
        place = str(node.host), int(node.port)
        if place not in self._clients:
            pool = BlockingConnectionPool(
                host=place[0],
                port=place[1],
                connection_class=SSLConnection if self.tls else Connection,
                max_connections=self._connections,
                timeout=self._timeout_s,
                **self.options,
            )
            self._clients[place] = Redis.from_pool(pool)
        return self._clients[place]

    async def ask(self, *, again: bool = False) -> None:
        """Learn the map of slots: once, or `again` after a node answered that a slot has moved.

        Raises:
            redis.ConnectionError: no node answers.
        """
        known = self._map
        async with self._asking:
            if self._map is not None and (not again or self._map is not known):
                return
            nodes = [ClusterNode(*address) for address in self.addresses]
            asked = RedisCluster(startup_nodes=nodes, ssl=self.tls, require_full_coverage=False, **self.own_patience)
            try:
                await asked.initialize()
            except (RedisClusterException, OSError) as error:
                raise NotConnected(f"no node of the cluster answers: {error}") from error
            finally:
                await asked.aclose()  # closes its connections and keeps the map
            self._map = asked
            known_places = {(str(node.host), int(node.port)) for node in asked.get_nodes()}
            self.addresses = sorted({*self.addresses, *known_places})
            for place in self._clients.keys() - known_places:
                await close(self._clients.pop(place))

    async def aclose(self) -> None:
        """Close all clients; may be called again."""
        while self._clients:
            await close(self._clients.popitem()[1])


Client = Redis | Cluster


def near(client: Client, key: str) -> Redis:
    """The client of the server that holds a key."""
    return client if isinstance(client, Redis) else client.of(key)


def servers(client: Client) -> list[Redis]:
    """Clients of all servers that hold keys."""
    return [client] if isinstance(client, Redis) else client.primaries()


async def ready(client: Client, *, again: bool = False) -> None:
    """As `Cluster.ask`; does nothing for a single server."""
    if isinstance(client, Cluster):
        await client.ask(again=again)


async def close(client: Client) -> None:
    """Close all connections; may be called again."""
    await client.aclose()
    if isinstance(client, Redis):
        await client.connection_pool.disconnect()
