"""Unmodified y-websocket clients (npm, version 3) on the gateway."""

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from pycrdt import Text

from ds_sync import Replica
from ds_sync.testing.server_process import ServerProcess
from tests.examples.sites import Site
from tests.interop.peers import SECONDS, NodePeer, node_peer, python_sees

pytestmark = [pytest.mark.anyio, pytest.mark.interop]


@pytest.fixture(scope="module")
def server() -> Iterator[ServerProcess]:
    with ServerProcess() as process:
        yield process


class Peer:
    """tests/interop/ywebsocket-peer.mjs, running."""

    def __init__(self, process: NodePeer) -> None:
        self._process = process

    async def run(self, code: str) -> Any:
        """Run the body of an async JavaScript function; return what it returns."""
        self._process.tell(run=code)
        answer = await self._process.hear()
        assert "error" not in answer, answer["error"]
        return answer["result"]


@asynccontextmanager
async def javascript(node: str, server: ServerProcess) -> AsyncIterator[Peer]:
    async with node_peer(node, "ywebsocket-peer.mjs", f"{server.url.replace('http', 'ws', 1)}/v1/ws/default") as process:
        yield Peer(process)


@pytest.fixture
async def peer(node: str, server: ServerProcess) -> AsyncIterator[Peer]:
    async with javascript(node, server) as made:
        yield made


async def test_edits_of_all_shared_types_go_both_ways(peer: Peer) -> None:
    result = await peer.run("""
        const ann = open('types'), bob = open('types')
        await synced(ann, bob)
        ann.text.insert(0, 'Grüße 😀𝄞')
        ann.text.format(0, 5, { bold: true })
        ann.text.insertEmbed(3, { image: 'x.png' })
        const map = bob.doc.getMap('map')
        map.set('number', 1.5); map.set('none', null); map.set('bytes', new Uint8Array([1, 2, 255]))
        map.set('deep', { a: [1, { b: 'é' }] })
        const nested = new Y.Map(); map.set('nested', nested); nested.set('list', Y.Array.from([1, 'two', true]))
        const array = ann.doc.getArray('array')
        array.insert(0, ['a', 2, false, null]); array.insert(1, [new Y.Text('inside')])
        const xml = bob.doc.getXmlFragment('xml')
        const element = new Y.XmlElement('p'); xml.insert(0, [element]); element.setAttribute('class', 'big')
        element.insert(0, [new Y.XmlText('hello')])
        await same(ann, bob)
        await until(() => bob.doc.getArray('array').length === 5 && ann.doc.getXmlFragment('xml').length === 1)
        bob.doc.getArray('array').delete(0, 2)
        ann.doc.getMap('map').delete('none')
        ann.doc.getMap('map').get('nested').get('list').push(['late'])
        await until(() => bob.doc.getMap('map').get('nested').get('list').length === 4 && ann.doc.getArray('array').length === 3)
        await same(ann, bob)
        const late = open('types')
        await synced(late); await same(ann, bob, late)
        return content(late.doc)
    """)
    held = json.loads(result)
    assert held["text"] == [
        {"insert": "Grü", "attributes": {"bold": True}},
        {"insert": {"image": "x.png"}},
        {"insert": "ße", "attributes": {"bold": True}},
        {"insert": " 😀𝄞"},
    ]
    assert held["array"] == [2, False, None]
    assert held["map"]["nested"] == {"list": [1, "two", True, "late"]}
    assert held["map"]["deep"] == {"a": [1, {"b": "é"}]}
    assert "none" not in held["map"]
    assert held["xml"] == '<p class="big">hello</p>'


async def test_a_document_in_a_document_is_known_by_its_name(peer: Peer) -> None:
    result = await peer.run("""
        const ann = open('outer'), bob = open('outer')
        await synced(ann, bob)
        ann.doc.getMap('map').set('inner', new Y.Doc({ guid: 'chapter-1', meta: { title: 'é' } }))
        const held = await until(() => bob.doc.getMap('map').get('inner'))
        const late = open('outer')
        await synced(late)
        return [held.guid, held.meta, late.doc.getMap('map').get('inner').guid]
    """)
    assert result == ["chapter-1", {"title": "é"}, "chapter-1"]


async def test_the_query_means_nothing_and_names_are_told_apart_by_case(peer: Peer) -> None:
    result = await peer.run("""
        const ann = open('Room', { params: { token: 'x', y: '1' } }), bob = open('Room'), other = open('room')
        await synced(ann, bob, other)
        ann.text.insert(0, 'seen')
        await until(() => bob.text.toString() === 'seen')
        await sleep(0.2)
        return other.text.toString()
    """)
    assert result == ""


async def test_offline_edits_of_both_are_merged(peer: Peer) -> None:
    end = await peer.run("""
        const ann = open('offline'), bob = open('offline')
        await synced(ann, bob)
        ann.text.insert(0, 'base')
        await same(ann, bob); await until(() => bob.text.length === 4)
        ann.provider.disconnect(); bob.provider.disconnect()
        ann.text.insert(0, 'A'); bob.text.insert(4, 'B'); bob.text.delete(0, 1)
        ann.provider.connect(); await synced(ann); bob.provider.connect()
        await until(() => ann.text.toString() === bob.text.toString() && ann.text.length === 5)
        return ann.text.toString()
    """)
    assert end == "AaseB"


async def test_a_replica_in_python_and_a_browser_edit_one_document(peer: Peer, server: ServerProcess, tmp_path: Path) -> None:
    async with Replica(tmp_path / "one.db", server=server.url) as replica:
        note = await replica.open("Übungen/mit Leerzeichen")
        text = note.doc.get("body", type=Text)
        text += "python "
        await note.synced()
        await peer.run("""
            kept.ann = open('Übungen/mit Leerzeichen')
            await until(() => kept.ann.text.toString() === 'python ')
            kept.ann.text.insert(7, 'browser 😀')
        """)
        await python_sees(text, "python browser 😀")
        text += "!"
        assert await peer.run("return await until(() => kept.ann.text.toString() === 'python browser 😀!')")


async def test_websocket_http_and_python_share_one_document_and_one_presence(peer: Peer, server: ServerProcess, tmp_path: Path) -> None:
    async with Replica(tmp_path / "one.db", server=server.url) as replica:
        note = await replica.open("shared")
        text = note.doc.get("body", type=Text)
        await note.synced()
        note.presence.set({"name": "python"})
        await peer.run(f"""
            kept.ws = open('shared')
            await synced(kept.ws)
            const doc = new Y.Doc(), awareness = new Awareness(doc)
            const provider = new YjsProvider({{ doc, baseUrl: '{server.url}/v1/yjs/default', docId: 'shared', awareness, connect: false }})
            await provider.connect()
            kept.http = {{ doc, awareness, provider, text: doc.getText('body') }}
            await until(() => provider.synced)
            kept.ws.awareness.setLocalState({{ name: 'websocket' }})
            awareness.setLocalState({{ name: 'http' }})
            kept.ws.text.insert(0, 'websocket ')
            await until(() => kept.http.text.toString() === 'websocket ')
            kept.http.text.insert(10, 'http ')
            await until(() => kept.ws.text.toString() === 'websocket http ')
        """)
        await python_sees(text, "websocket http ")
        text += "python"
        await peer.run("""
            await until(() => kept.ws.text.toString() === 'websocket http python' && kept.http.text.toString() === 'websocket http python')
            const names = client => [...client.awareness.getStates().values()].map(state => state.name).sort().join()
            await until(() => names(kept.ws) === 'http,python,websocket' && names(kept.http) === 'http,python,websocket')
            kept.ws.provider.destroy()
            await until(() => names(kept.http) === 'http,python', 8)
            await kept.http.provider.destroy()
        """)
        async with asyncio.timeout(SECONDS):
            async for states in note.presence.changes():
                if sorted(state["name"] for state in states.values()) in ([], ["python"]):
                    break


async def test_large_updates_go_both_ways(peer: Peer) -> None:
    await peer.run("""
        const letters = 'abcdefghijklmnopqrstuvwxyzé😀'
        let big = ''
        while (big.length < 6_000_000) big += letters + big.length
        const ann = open('large'), bob = open('large')
        await synced(ann, bob)
        ann.text.insert(0, big)
        await until(() => bob.text.length === big.length)
        bob.doc.getMap('map').set('bytes', new Uint8Array(5_000_000).fill(7))
        await until(() => ann.doc.getMap('map').get('bytes')?.length === 5_000_000)
        const late = open('large')
        await synced(late)
        for (const client of [bob, late]) if (hash(client.text.toString()) !== hash(big)) throw new Error('not what was written')
        if (late.doc.getMap('map').get('bytes').some(byte => byte !== 7)) throw new Error('not what was written')
        ann.provider.disconnect(); ann.text.insert(5, 'offline'); ann.provider.connect()
        await until(() => late.text.length === big.length + 7)
        const closes = [ann, bob, late].flatMap(client => client.closes)
        if (closes.join() !== '') throw new Error(`closed: ${closes}`)
    """)


async def test_thirty_people_in_a_room(peer: Peer) -> None:
    await peer.run("""
        const people = Array.from({ length: 30 }, () => open('crowd'))
        await synced(...people)
        people.forEach((person, number) => person.awareness.setLocalState({ name: `n${number}` }))
        for (let round = 0; round < 5; round++) {
            people.forEach((person, number) => { person.text.insert(0, `${number},`); person.doc.getMap('map').set(`k${number}`, round) })
            await sleep(0.02)
        }
        await until(() => people.every(person => Object.keys(person.doc.getMap('map').toJSON()).length === 30), 40)
        await same(...people)
        const seen = person => [...person.awareness.getStates().values()].map(state => state.name).filter(Boolean)
        await until(() => people.every(person => new Set(seen(person)).size === 30))
        const counts = {}
        for (const number of people[0].text.toString().split(',').slice(0, -1)) counts[number] = (counts[number] ?? 0) + 1
        if (Object.values(counts).some(count => count !== 5) || Object.keys(counts).length !== 30) throw new Error(JSON.stringify(counts))
        people.slice(0, 10).forEach(person => person.provider.ws.terminate())
        people.slice(10, 20).forEach(person => person.provider.destroy())
        await until(() => new Set(seen(people[29])).size === 20, 8)
    """)


async def test_two_hundred_rooms(peer: Peer) -> None:
    await peer.run("""
        const rooms = Array.from({ length: 200 }, (_, number) => open(`rooms/${number}`))
        await synced(...rooms)
        rooms.forEach((client, number) => client.text.insert(0, `only in ${number}`))
        const again = Array.from({ length: 200 }, (_, number) => open(`rooms/${number}`))
        await synced(...again)
        await until(() => again.every((client, number) => client.text.toString() === `only in ${number}`))
        for (const client of [...rooms, ...again]) client.provider.destroy()
    """)


async def test_presence_of_a_dropped_socket_is_gone(peer: Peer) -> None:
    seconds = await peer.run("""
        const ann = open('presence'), bob = open('presence')
        await synced(ann, bob)
        ann.awareness.setLocalState({ cursor: [1, 2], name: 'é😀' })
        await until(() => bob.awareness.getStates().get(ann.doc.clientID)?.name === 'é😀')
        const begun = Date.now()
        ann.provider.shouldConnect = false
        ann.provider.ws.terminate()
        await until(() => !bob.awareness.getStates().has(ann.doc.clientID), 8)
        ann.provider.connect()
        await until(() => bob.awareness.getStates().get(ann.doc.clientID)?.cursor[1] === 2)
        return (Date.now() - begun) / 1000
    """)
    assert seconds < 8


async def test_garbage_from_one_socket_leaves_the_others_connected(peer: Peer) -> None:
    await peer.run("""
        const ann = open('garbage'), bob = open('garbage')
        await synced(ann, bob)
        const bad = new WebSocket(`${base}/garbage`)
        await new Promise(resolve => bad.on('open', resolve))
        const sync = [[0], [0, 0], [0, 1, 5, 1], [0, 2, 3, 255, 255, 255], [0, 2, 255, 255, 255, 255, 127], [0, 99, 0]]
        for (const frame of [[], ...sync, [1, 3, 9, 9, 9], [2, 1], [99]]) bad.send(Uint8Array.from(frame))
        const noise = size => Array.from({ length: size }, () => Math.random() * 256)
        for (let size = 1; size < 3000; size += 97) bad.send(Uint8Array.from(noise(size)))
        for (let step = 0; step < 300; step++) bad.send(Uint8Array.from([0, step % 3, 20, ...noise(20)]))
        bad.send('text'); bad.ping()
        await new Promise(resolve => { bad.on('pong', resolve); bad.on('close', resolve) })
        ann.text.insert(0, 'fine')
        await until(() => bob.text.toString() === 'fine')
        if (ann.closes.length + bob.closes.length) throw new Error('somebody else was closed')
        const late = open('garbage')
        await synced(late)
        if (content(late.doc) !== content(ann.doc)) throw new Error(content(late.doc))
    """)


async def test_an_editor_that_uses_what_can_not_be_kept_is_told_so(peer: Peer) -> None:
    told = await peer.run("""
        const ann = open('hook'), bob = open('hook')
        await synced(ann, bob)
        const closed = new Promise(resolve => ann.provider.on('closed', resolve))
        ann.doc.getXmlFragment('xml').insert(0, [new Y.XmlHook('hook')])
        const { code, reason } = await closed
        bob.text.insert(0, 'fine')
        await until(() => bob.provider.wsconnected && bob.text.toString() === 'fine')
        return { code, reason, back: ann.provider.shouldConnect && ann.provider.wsconnecting, others: bob.closes }
    """)
    assert told == {"code": 4422, "reason": "not supported: an XML hook, which pycrdt misreads", "back": False, "others": []}


async def test_a_socket_that_does_not_read_holds_up_nobody(peer: Peer) -> None:
    await peer.run("""
        const stalled = new WebSocket(`${base}/stalled`)
        await new Promise(resolve => stalled.on('open', resolve))
        stalled.pause()
        const closed = new Promise(resolve => stalled.on('close', resolve))
        const ann = open('stalled'), bob = open('stalled')
        await synced(ann, bob)
        const begun = Date.now()
        for (let number = 0; number < 30; number++) {
            ann.text.insert(0, 'x'.repeat(1_000_000)); ann.text.delete(0, 1_000_000)
            ann.doc.getMap('map').set('round', number)
            await until(() => bob.doc.getMap('map').get('round') === number)
        }
        stalled.resume()
        await closed
        if (ann.closes.length + bob.closes.length) throw new Error('somebody else was closed')
    """)


async def test_an_application_decides_who_enters_and_who_only_reads(node: str, tmp_path: Path) -> None:
    """examples/in_fastapi."""
    site = Site("in_fastapi", tmp_path / "streams.db")
    try:
        async with node_peer(node, "ywebsocket-peer.mjs", f"{site.url.replace('http', 'ws', 1)}/v1/ws/default") as process:
            told = await Peer(process).run("""
                const warnings = []
                console.warn = text => warnings.push(text)
                const ann = open('room', { params: { key: 'a key' } })
                ann.text.insert(0, 'hers')
                await synced(ann)
                const eve = open('room', { params: { key: 'guessed' } })
                const closed = await new Promise(resolve => eve.provider.on('closed', resolve))
                const guest = open('room', { params: { key: 'a key to read' } })
                await synced(guest)
                guest.text.insert(4, ' and his'); guest.text.insert(0, 'more ')
                guest.awareness.setLocalStateField('name', 'guest')
                await until(() => [...ann.awareness.getStates().values()].some(state => state.name === 'guest'))
                ann.text.insert(4, '!')
                await until(() => guest.text.toString().includes('!'))
                const late = open('room', { params: { key: 'a key' } })
                await synced(late)
                const denied = text => text.replace(/^Permission denied to access \\S+\\n/, '')
                const warned = warnings.map(denied)
                return [closed.code, closed.reason, warned, late.text.toString(), guest.provider.wsconnected, eve.text.toString()]
            """)
    finally:
        site.stop()
    read_only = "you may only read here: what you change is not kept"
    assert told == [4403, "the key is wrong", ["the key is wrong", read_only], "hers!", True, ""]


@pytest.mark.parametrize("how", ["terminate", "kill"])
async def test_clients_go_on_over_restarts_of_the_server(node: str, tmp_path: Path, how: str) -> None:
    with ServerProcess(tmp_path / "streams.db") as server:
        async with javascript(node, server) as peer:
            await peer.run("kept.ann = open('restart'); kept.bob = open('restart'); await synced(kept.ann, kept.bob)")
            for number in range(3):
                await peer.run(f"kept.ann.text.insert(0, '{number} '); await until(() => kept.bob.text.toString().startsWith('{number} '))")
                if how == "kill":
                    server.kill()
                else:
                    assert server.terminate() == 0
                await peer.run(f"await until(() => !kept.ann.provider.wsconnected); kept.bob.text.insert(0, 'offline{number} ')")
                server.start()
                await peer.run("await synced(kept.ann, kept.bob); await same(kept.ann, kept.bob)")
            end = await peer.run("return (await until(() => kept.ann.text.length > 30 && kept.ann.text)).toString()")
            assert end == "offline2 2 offline1 1 offline0 0 "
            late = await peer.run("const late = open('restart'); await synced(late); return late.text.toString()")
            assert late == end
