/** The turns of connections, on an event loop of this test: its clock stands while nothing runs, and handlers take the time they say. */

import assert from 'node:assert/strict';
import { test } from 'node:test';
import type { Xid } from '../../../src/base/ids.js';
import {
  FrameTurns,
  type Seat,
  SLICE_FRAMES,
  SLICE_MS,
  type Turntaker,
} from '../../../src/rpc/frame_turns.js';
import { FrameLink } from '../../../src/rpc/link.js';
import { KIND } from '../../../src/wire/header.js';
import { memoryPair } from '../../fixtures/memory_connection.js';

/** What a turn of the loop costs besides handlers. */
const LOOP_MS = 0.005;
const MIB = 1 << 20;

class Loop {
  nowMs = 0;
  #soon: (() => void)[] = [];
  #timers: { readonly atMs: number; readonly fn: () => void }[] = [];
  /** Who has something to say, and when. Looked at once in each turn. */
  readonly sockets: { atMs: number; readonly arrives: () => void }[] = [];
  /** In the next turn of the loop. */
  later(fn: () => void): void {
    this.#soon.push(fn);
  }

  readonly turns = new FrameTurns({
    clock: { nowMs: () => this.nowMs },
    timers: {
      soon: (fn) => this.#soon.push(fn),
      after: (ms, fn) => {
        const timer = { atMs: this.nowMs + ms, fn };
        this.#timers.push(timer);
        return { cancel: () => void this.#timers.splice(this.#timers.indexOf(timer) >>> 0, 1) };
      },
    },
  });

  /** One turn: sockets, then what was put off, then timers. If nothing is due, time goes on to what is next. */
  turn(): void {
    this.nowMs += LOOP_MS;
    if (this.#soon.length === 0) {
      const next = [...this.sockets, ...this.#timers].map(({ atMs }) => atMs);
      this.nowMs = Math.max(this.nowMs, Math.min(...next));
    }
    for (const socket of this.sockets) if (socket.atMs <= this.nowMs) socket.arrives();
    for (const fn of this.#soon.splice(0)) fn();
    for (const timer of [...this.#timers]) {
      if (timer.atMs > this.nowMs || !this.#timers.includes(timer)) continue;
      this.#timers.splice(this.#timers.indexOf(timer), 1);
      timer.fn();
    }
    this.turns.checkInvariants();
  }

  run(ms: number): void {
    for (const endMs = this.nowMs + ms; this.nowMs < endMs; ) this.turn();
  }
}

class Peer implements Turntaker {
  readonly seat: Seat;
  readonly #loop: Loop;
  readonly #costMs: number;
  frames = 0;
  done = 0;
  bulkBytes = 0;
  usedMs = 0;
  onDone: () => void = () => undefined;

  constructor(loop: Loop, party: string, costMs: number) {
    this.#loop = loop;
    this.#costMs = costMs;
    this.seat = loop.turns.seat(this, party);
  }

  handOut(): boolean {
    if (this.frames === 0) return false;
    this.frames -= 1;
    this.done += 1;
    this.#loop.nowMs += this.#costMs;
    this.usedMs += this.#costMs;
    this.onDone();
    return this.frames > 0;
  }

  turned(): void {}
}

/** Has always more frames than can be served. */
function flooder(loop: Loop, party: string, costMs: number, frames = 200): Peer {
  const peer = new Peer(loop, party, costMs);
  loop.sockets.push({
    atMs: 0,
    arrives: () => {
      if (peer.seat.waits) return;
      peer.frames = frames;
      peer.seat.ready();
    },
  });
  return peer;
}

/** Sends one request after the other; each takes awayMs besides the time in the server. */
function caller(loop: Loop, party: string, costMs: number, awayMs: number): Peer {
  const peer = new Peer(loop, party, costMs);
  const socket = {
    atMs: 0,
    arrives: () => {
      socket.atMs = Number.POSITIVE_INFINITY;
      peer.frames = 1;
      peer.seat.ready();
    },
  };
  peer.onDone = () => {
    socket.atMs = loop.nowMs + awayMs;
  };
  loop.sockets.push(socket);
  return peer;
}

function alone(costMs: number, awayMs: number, ms: number): number {
  const loop = new Loop();
  const peer = caller(loop, 'caller', costMs, awayMs);
  loop.run(ms);
  return peer.done;
}

test('two connections that both have frames are served in turns', () => {
  const loop = new Loop();
  const [a, b] = [new Peer(loop, 'a', 0), new Peer(loop, 'b', 0)];
  const served: string[] = [];
  a.onDone = () => served.push('a');
  b.onDone = () => served.push('b');
  b.frames = 1;
  b.seat.ready();
  [a.frames, b.frames] = [1000, 1000];
  a.seat.ready();
  b.seat.ready();
  const before = served.length;
  while (a.frames + b.frames > 0) loop.turn();
  const runs = served.join('').match(/a+|b+/g) ?? [];
  assert.ok(before <= 1 + 2 * SLICE_FRAMES, `${before} frames in the first turn`);
  assert.deepEqual([...new Set(runs.slice(1, -2).map((run) => run.length))], [SLICE_FRAMES]);
  assert.deepEqual([a.done, b.done], [1000, 1001]);
});

test('a connection that is alone has no slices, and its frames keep their order', () => {
  const loop = new Loop();
  const peer = new Peer(loop, 'a', 0.001);
  peer.frames = 1000;
  peer.seat.ready();
  assert.equal(peer.done, 1000);
});

const sent = (flood: Peer): void => {
  flood.bulkBytes += MIB;
};
const asked = (flood: Peer, loop: Loop): void => loop.later(() => flood.seat.sends(MIB, () => undefined));
for (const [what, laterMs, noted] of [
  ['bulks', 0.7, sent],
  ['requests for bulks', 0.4, asked],
] as const) {
  test(`a flood of ${what}, whose work is done after their turns, leaves more than half`, () => {
    const ms = 3000;
    const [ownMs, awayMs] = [0.03, 0.09];
    const loop = new Loop();
    const flood = flooder(loop, 'flood', 0.02, 20);
    flood.onDone = () => {
      noted(flood, loop);
      loop.later(() => {
        loop.nowMs += laterMs;
      });
    };
    const victim = caller(loop, 'victim', ownMs, awayMs);
    loop.run(ms);
    const share = victim.done / alone(ownMs, awayMs, ms);
    assert.ok(share > 0.5, `the other has ${(share * 100).toFixed(0)} % of its rate`);
    assert.ok(flood.done > (0.3 * ms) / (laterMs + 0.02), `the flood has ${flood.done} bulks`);
  });
}

for (const [what, laterMs, noted] of [
  ['writes', 0.7, sent],
  ['reads', 0.4, asked],
] as const) {
  test(`a client that ${what} bulks loses nothing to a hundred that only show that they live`, () => {
    const [ms, everyMs] = [3000, 1000];
    const doneBeside = (others: number): number => {
      const loop = new Loop();
      const busy = flooder(loop, 'busy', 0.02, 20);
      busy.onDone = () => {
        noted(busy, loop);
        loop.later(() => {
          loop.nowMs += laterMs;
        });
      };
      for (let at = 0; at < others; at += 1) {
        caller(loop, `idle ${at}`, 0.01, everyMs);
        const { length } = loop.sockets;
        Object.assign(loop.sockets[length - 1] ?? {}, { atMs: (everyMs * at) / others });
      }
      loop.run(ms);
      return busy.done;
    };
    const share = doneBeside(100) / doneBeside(0);
    assert.ok(share > 0.95, `it has ${(share * 100).toFixed(0)} % of its rate`);
  });
}

test('who was alone owes nothing for its bulks when another comes', () => {
  const loop = new Loop();
  const [one, other] = [new Peer(loop, 'one', 0.01), new Peer(loop, 'other', 0.01)];
  const serve = (peer: Peer): boolean => {
    peer.frames = 1;
    peer.seat.ready();
    return !peer.seat.waits;
  };
  one.onDone = () => {
    one.bulkBytes += MIB;
    one.seat.sends(MIB, () => undefined);
  };
  for (let at = 0; at < 1000; at += 1) {
    loop.nowMs += 1;
    assert.ok(serve(one));
  }
  assert.deepEqual([serve(other), serve(one)], [true, true]);
});

for (const costMs of [0.01, 0.15, 0.4, 3, 30]) {
  for (const [what, parties, count] of [
    ['another key', ['flood', 'victim'], 1],
    ['the same key', ['all', 'all'], 1],
    ['a hundred connections of another key', ['flood', 'victim'], 100],
  ] as const) {
    test(`a flood of ${costMs} ms a frame by ${what} leaves more than half`, () => {
      const ms = 3000;
      const [ownMs, awayMs] = [0.03, 0.09];
      const loop = new Loop();
      for (let at = 0; at < count; at += 1) flooder(loop, parties[0], costMs);
      const victim = caller(loop, parties[1], ownMs, awayMs);
      loop.run(ms);
      const share = victim.done / alone(ownMs, awayMs, ms);
      assert.ok(share > 0.5, `the other has ${(share * 100).toFixed(0)} % of its rate`);
    });
  }
}

test('two that both have heavy frames lose nothing to each other', () => {
  const loop = new Loop();
  const peers = [flooder(loop, 'a', 3), flooder(loop, 'b', 3)];
  loop.run(3000);
  const used = peers.map(({ usedMs }) => usedMs / loop.nowMs);
  assert.ok(
    used.every((share) => share > 0.45),
    `${used}`,
  );
});

test('light frames that come all the time have more than a third beside heavy ones', () => {
  const loop = new Loop();
  const [heavy, light] = [flooder(loop, 'a', 5), flooder(loop, 'b', SLICE_MS / 5)];
  loop.run(5000);
  const share = light.usedMs / (heavy.usedMs + light.usedMs);
  assert.ok(share > 1 / 3 && heavy.usedMs > 1500, `light ${light.usedMs} ms, heavy ${heavy.usedMs} ms`);
});

test('a key with many connections has no more than a key with one', () => {
  const loop = new Loop();
  const many = Array.from({ length: 50 }, () => caller(loop, 'many', 0.02, 0.1));
  const one = flooder(loop, 'one', 0.02);
  loop.run(1000);
  const usedMs = many.reduce((sum, peer) => sum + peer.usedMs, 0);
  assert.ok(one.usedMs > 0.8 * usedMs, `${one.usedMs} of one, ${usedMs} of many`);
  const least = Math.min(...many.map(({ done }) => done));
  assert.ok(least > 0.5 * (usedMs / 0.02 / 50), `one of the many has ${least}`);
});

test('a link that waits for its turn is not read, loses nothing, and hands out what is left when the peer ends in order', async () => {
  const loop = new Loop();
  const seen: [string, number][] = [];
  const dial = (name: string) =>
    memoryPair(
      (connection) =>
        new FrameLink(connection, {}, () => ({ frame: () => undefined, closed: () => undefined })),
      (connection) =>
        new FrameLink(connection, { turns: loop.turns }, () => ({
          frame: ({ header }) => seen.push([name, header.xid]),
          closed: () => seen.push([name, -1]),
        })),
    );
  const [a, b] = [dial('a'), dial('b')];
  const send = (from: FrameLink, count: number): void => {
    for (let xid = 1; xid <= count; xid += 1) {
      from.send({ kind: KIND.request, opcode: 3, xid: xid as Xid, ackXidOrCommitted: 0 }, Buffer.alloc(0));
    }
  };
  const settled = (): Promise<void> => new Promise((resolve) => setImmediate(resolve));
  send(b.a, 1);
  await settled();
  send(a.a, 3 * SLICE_FRAMES);
  await settled();
  const first = seen.length - 1;
  send(a.a, 10);
  await settled();
  const unread = a.bConnection.unreadBytes;
  loop.turn();
  await settled();
  const second = seen.length - 1;
  a.a.end();
  await settled();
  for (let turn = 0; turn < 10; turn += 1) {
    loop.turn();
    await settled();
  }
  assert.deepEqual([first, second], [SLICE_FRAMES, 2 * SLICE_FRAMES]);
  assert.ok(unread > 0, 'it goes on reading');
  const upTo = (count: number): number[] => Array.from({ length: count }, (_, at) => at + 1);
  assert.deepEqual(
    seen.filter(([name]) => name === 'a').map(([, xid]) => xid),
    [...upTo(3 * SLICE_FRAMES), ...upTo(10), -1],
  );
});
