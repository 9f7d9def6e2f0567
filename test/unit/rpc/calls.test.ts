/** Requester and Service against each other, over links in memory. */

import assert from 'node:assert/strict';
import { test } from 'node:test';
import { ByteBudget } from '../../../src/base/budget.js';
import { FsError } from '../../../src/base/errno.js';
import type { Fid, Transno, Xid } from '../../../src/base/ids.js';
import type { AnsweredRequest, AnswerObserver, Frame, Link, ServiceHooks } from '../../../src/rpc/api.js';
import { FrameLink } from '../../../src/rpc/link.js';
import { PartyBudgets } from '../../../src/rpc/party_budgets.js';
import { Requester } from '../../../src/rpc/requester.js';
import { Service, type ServiceOptions } from '../../../src/rpc/service.js';
import { Read, Seek, Sync, Write } from '../../../src/wire/data.js';
import { FLAG_RECOVERY, FLAG_REPLAY, FLAG_RESENT, KIND } from '../../../src/wire/header.js';
import { Bast, Cancel, Enqueue } from '../../../src/wire/lock.js';
import { Getattr, Readlink } from '../../../src/wire/meta.js';
import { operation } from '../../../src/wire/operation.js';
import { encode, message, req, text } from '../../../src/wire/schema.js';
import { Evicted, GetFids, Ping } from '../../../src/wire/session.js';
import { memoryPair } from '../../fixtures/memory_connection.js';

const settled = (): Promise<void> => new Promise((resolve) => setImmediate(resolve));
const seekFrom = (offset: number) => ({ fid: 1 as Fid, offset, what: 'data' as const });

interface World {
  readonly requester: Requester;
  readonly service: Service<string>;
  /** Request frames as they reached the server. */
  readonly arrived: Frame['header'][];
  readonly replies: { readonly xid: Xid; readonly errno: number; readonly transno: Transno }[];
  /** A new connection, attached. */
  connect(options?: { readonly resend?: boolean }): {
    readonly client: FrameLink;
    readonly server: FrameLink;
  };
}

function world(options: ServiceOptions = {}, observer?: AnswerObserver): World {
  const requester = new Requester(observer === undefined ? {} : { observer });
  const service = new Service<string>(options);
  const arrived: Frame['header'][] = [];
  const replies: { readonly xid: Xid; readonly errno: number; readonly transno: Transno }[] = [];
  const hooks: ServiceHooks = {
    lastCommitted: () => 7 as Transno,
    onReply: (header, { errno, transno }) => replies.push({ xid: header.xid, errno, transno }),
  };
  return {
    requester,
    service,
    arrived,
    replies,
    connect({ resend = true } = {}) {
      const { a, b } = memoryPair(
        (connection) =>
          new FrameLink(connection, {}, () => ({
            frame: (frame) => requester.reply(frame),
            closed: () => {},
          })),
        (connection) =>
          new FrameLink(connection, {}, (link) => ({
            frame: (frame) => {
              arrived.push(frame.header);
              service.dispatch('context', link, frame, hooks);
            },
            closed: () => {},
          })),
      );
      requester.attach(a, { resend });
      return { client: a, server: b };
    },
  };
}

async function failure(promise: Promise<unknown>): Promise<string> {
  try {
    await promise;
  } catch (error) {
    return error instanceof FsError ? `${error.code} ${error.message}` : String(error);
  }
  return 'it succeeded';
}

test('a call brings reply, bulk, transno and lastCommitted', async () => {
  const { requester, service, connect } = world();
  connect();
  service.on(Write, (context, request, incoming) => ({
    reply: { blocks: request.offset, grantBytes: incoming.bulk.length },
    bulk: [Buffer.from(context), incoming.bulk],
    transno: 99 as Transno,
  }));
  const answer = await requester.call(
    Write,
    { fid: 5 as Fid, offset: 8, mtime: { sec: 1, nsec: 2 }, grantUsed: 0 },
    { bulk: [Buffer.from('ab'), Buffer.from('c')] },
  );
  assert.deepEqual(
    { ...answer, bulk: answer.bulk.toString() },
    {
      reply: { blocks: 8, grantBytes: 3 },
      bulk: 'contextabc',
      transno: 99,
      lastCommitted: 7,
      xid: 1,
    },
  );
});

test('errors come with their errno and text; bugs as EIO without their text', async () => {
  const { requester, service, connect, replies } = world();
  connect();
  service.on(Getattr, () => {
    throw new FsError('ENOENT', 'no inode 5');
  });
  service.on(Sync, async () => {
    throw new FsError('ENOSPC', 'x'.repeat(900));
  });
  service.on(Readlink, () => {
    throw new TypeError('secret of the implementation');
  });
  service.on(GetFids, () => undefined);
  // Refused by the peer only: our own schema of the request lets it pass.
  const wrongSeek = operation(Seek.opcode, 'SEEK', message('S', { fid: req(1, text(9)) }), Seek.reply);
  const unknown = operation(4000, 'FUTURE', message('F', {}), message('F', {}));
  const got = await Promise.all([
    failure(requester.call(Getattr, { fid: 5 as Fid, want: 0 })),
    failure(requester.call(Sync, {})),
    failure(requester.call(Readlink, { fid: 5 as Fid })),
    failure(requester.call(GetFids, {})),
    failure(requester.call(wrongSeek, { fid: 'five' })),
    failure(requester.call(unknown, {})),
  ]);
  assert.deepEqual(got, [
    'ENOENT GETATTR: no inode 5',
    `ENOSPC SYNC: ${'x'.repeat(500)}`,
    'EIO READLINK: internal error, see the log of the server',
    'EIO GET_FIDS: internal error, see the log of the server',
    'EOPNOTSUPP SEEK: unknown opcode 100',
    'EOPNOTSUPP FUTURE: unknown opcode 4000',
  ]);
  service.on(Seek, (_context, { offset }) => ({ reply: { offset } }));
  assert.equal(
    await failure(requester.call(wrongSeek, { fid: 'five' })),
    'EPROTO SEEK: SeekRequest.fid: not a fid',
  );
  assert.equal(replies.length, 7);
});

test('apply runs before the next frame is looked at, also when the caller was interrupted', async () => {
  const { requester, service, connect } = world();
  const events: string[] = [];
  const { server } = connect();
  let release: () => void = () => {};
  service.on(Seek, (_context, { offset }, incoming) => {
    if (offset > 1) return { reply: { offset } };
    return new Promise((resolve) => {
      release = () => {
        // The reply leaves in this turn, before the notice, whatever waits for the promise.
        incoming.answer({ reply: { offset } });
        server.send(
          { kind: KIND.notice, opcode: Bast.opcode, xid: 0 as Xid, ackXidOrCommitted: 0 },
          Buffer.from([0x90]),
        );
        resolve(undefined);
      };
    });
  });
  const aborter = new AbortController();
  const original = requester.reply.bind(requester);
  requester.reply = (frame) => {
    events.push(frame.header.kind === KIND.notice ? 'notice' : `reply ${frame.header.xid}`);
    if (frame.header.kind === KIND.reply) original(frame);
  };
  const apply = (name: string) => () => void events.push(`apply ${name}`);
  const interrupted = failure(
    requester.call(Seek, seekFrom(1), { apply: apply('interrupted'), signal: aborter.signal }),
  );
  await settled();
  aborter.abort();
  assert.equal(await interrupted, 'EINTR SEEK was interrupted');
  assert.equal(requester.inFlight, 1);
  release();
  const second = requester
    .call(Seek, seekFrom(2), { apply: apply('second') })
    .then(() => events.push('second told'));
  await second;
  assert.deepEqual(events, [
    'reply 1',
    'apply interrupted',
    'notice',
    'reply 2',
    'apply second',
    'second told',
  ]);
  assert.equal(
    await failure(requester.call(Seek, seekFrom(1), { signal: aborter.signal })),
    'EINTR SEEK was interrupted',
  );
  assert.equal(requester.inFlight, 0);
});

test('ackXid is the lowest unanswered xid', async () => {
  const { requester, service, connect, arrived } = world();
  connect();
  const waiting: (() => void)[] = [];
  service.on(Seek, (_context, { offset }) => {
    const outcome = { reply: { offset } };
    return offset === 0 ? outcome : new Promise((resolve) => waiting.push(() => resolve(outcome)));
  });
  await requester.call(Seek, seekFrom(0)); // xid 1
  const slow = requester.call(Seek, seekFrom(1)); // 2
  await requester.call(Seek, seekFrom(0)); // 3
  await requester.call(Seek, seekFrom(0)); // 4
  waiting[0]?.();
  await slow;
  await requester.call(Seek, seekFrom(0)); // 5
  assert.deepEqual(
    arrived.map((header) => [header.xid, header.ackXidOrCommitted]),
    [
      [1, 1],
      [2, 2],
      [3, 2],
      [4, 2],
      [5, 5],
    ],
  );
});

test('calls outlive their connection: resent in xid order, flagged, and answered once', async () => {
  const { requester, service, connect, arrived } = world();
  service.on(Seek, (_context, { offset }) => ({ reply: { offset } }));
  const before = requester.call(Seek, seekFrom(10)); // not connected yet
  const first = connect();
  await before;
  first.server.pause(); // what is sent now is never handled
  const calls = [
    requester.call(Seek, seekFrom(20)),
    requester.call(Seek, seekFrom(30), { flags: FLAG_RECOVERY }),
  ];
  await settled();
  requester.detach();
  first.client.destroy();
  const late = requester.call(Seek, seekFrom(40));
  arrived.length = 0;
  const second = connect({ resend: false });
  const own = await requester.call(Seek, seekFrom(50), { connectionOnly: true });
  assert.deepEqual(
    arrived.map((header) => header.xid),
    [5],
  );
  requester.attach(second.client, { resend: true });
  requester.attach(second.client, { resend: true }); // changes nothing: they are on this link already
  const answers = await Promise.all([...calls, late]);
  assert.deepEqual(
    arrived.map((header) => [header.xid, header.flags]),
    [
      [5, 0],
      [2, FLAG_RESENT],
      [3, FLAG_RECOVERY | FLAG_RESENT],
      [4, 0],
    ],
  );
  assert.deepEqual(
    [...answers, own].map((answer) => answer.reply.offset),
    [20, 30, 40, 50],
  );
  assert.deepEqual([requester.inFlight, requester.lastXid], [0, 5]);
});

test('a call that means one connection fails with it', async () => {
  const { requester, service, connect } = world();
  const never = new Promise<never>(() => {});
  service.on(Ping, () => never);
  service.on(Seek, () => never);
  assert.equal(
    await failure(requester.call(Ping, {}, { connectionOnly: true })),
    'ENOTCONN PING: the connection is lost',
  );
  connect();
  const ping = failure(requester.call(Ping, {}, { connectionOnly: true }));
  const seek = failure(requester.call(Seek, seekFrom(1)));
  requester.detach();
  assert.equal(await ping, 'ENOTCONN PING: the connection is lost');
  assert.equal(requester.inFlight, 1);
  requester.failAll(new FsError('EIO', 'evicted'));
  assert.equal(await seek, 'EIO evicted');
});

test('a call interrupted before it was sent never takes effect', async () => {
  const { requester, service, connect, arrived } = world();
  service.on(Seek, (_context, { offset }) => ({ reply: { offset } }));
  const aborter = new AbortController();
  const interrupted = failure(requester.call(Seek, seekFrom(1), { signal: aborter.signal }));
  const idle = requester.idle();
  aborter.abort();
  await idle;
  assert.equal(await interrupted, 'EINTR SEEK was interrupted');
  connect();
  await requester.call(Seek, seekFrom(2));
  assert.deepEqual(
    arrived.map((header) => [header.xid, header.ackXidOrCommitted]),
    [[2, 2]],
  );
});

test('failAll ends those that the filter picks, and their late replies are dropped', async () => {
  const { requester, service, connect } = world();
  connect();
  const waiting: (() => void)[] = [];
  service.on(
    Seek,
    (_context, { offset }) => new Promise((resolve) => waiting.push(() => resolve({ reply: { offset } }))),
  );
  service.on(Ping, () => new Promise((resolve) => waiting.push(() => resolve({ reply: {} }))));
  let applied = false;
  const seek = failure(
    requester.call(Seek, seekFrom(1), {
      apply: () => {
        applied = true;
      },
    }),
  );
  const ping = requester.call(Ping, {});
  const idle = requester.idle().then(() => requester.inFlight);
  await settled();
  requester.failAll(new FsError('EIO', 'evicted'), (operation) => operation.opcode === Seek.opcode);
  assert.equal(await seek, 'EIO evicted');
  for (const answer of waiting) answer();
  await ping;
  assert.deepEqual([await idle, applied], [0, false]);
  await requester.idle();
});

test('notices are handled and not answered, and their failures stay with the receiver', async () => {
  const { requester, service, connect, replies } = world();
  const seen: unknown[] = [];
  service.on(Evicted, (_context, request) => {
    seen.push(request.reason);
    throw new FsError('EINVAL', 'nobody is told');
  });
  requester.notify(Evicted, { reason: 'x' }); // not connected: dropped
  connect();
  requester.notify(Evicted, { reason: 'x' });
  service.on(Ping, () => ({ reply: {} }));
  await requester.call(Ping, {});
  assert.deepEqual([seen, replies.length], [['x'], 1]);
});

test('bulks in hand are limited: the link is not read until there is room, and cancels never count', async () => {
  const budget = new ByteBudget('bulks', 1000);
  const { requester, service, connect, arrived } = world({ bulkBudget: new PartyBudgets(budget, 1) });
  const { server } = connect();
  const order: string[] = [];
  const waiting: (() => void)[] = [];
  service.on(Write, (_context, { offset }) => {
    order.push(`write ${offset}`);
    return new Promise((resolve) => waiting.push(() => resolve({ reply: { blocks: 0, grantBytes: 0 } })));
  });
  service.on(Enqueue, () => new Promise(() => {}));
  service.on(Cancel, () => {
    order.push('cancel');
    return { reply: {} };
  });
  const write = (offset: number) =>
    requester.call(
      Write,
      { fid: 1 as Fid, offset, mtime: { sec: 0, nsec: 0 }, grantUsed: 0 },
      { bulk: [Buffer.alloc(600)] },
    );
  for (let i = 0; i < 50; i += 1) void requester.call(Enqueue, { type: 'active', mode: 'PR' });
  await requester.call(Cancel, { handles: [] });
  const writes = [write(1), write(2), write(3)];
  await settled();
  assert.deepEqual([order, server.paused, budget.usedBytes], [['cancel', 'write 1'], true, 600]);
  waiting[0]?.();
  await writes[0];
  await settled();
  waiting[1]?.();
  await writes[1];
  await settled();
  waiting[2]?.();
  await writes[2];
  assert.deepEqual(
    [order, server.paused, budget.usedBytes, arrived.length],
    [['cancel', 'write 1', 'write 2', 'write 3'], false, 0, 54],
  );
});

test('a peer with more unanswered requests than any client would have is closed', async () => {
  const { requester, service, connect } = world({ unansweredMax: 10 });
  const { server } = connect();
  service.on(Enqueue, () => new Promise(() => {}));
  for (let i = 0; i < 10; i += 1) void requester.call(Enqueue, { type: 'active', mode: 'PR' });
  await settled();
  const before = server.isClosed;
  void requester.call(Enqueue, { type: 'active', mode: 'PR' });
  await settled();
  assert.deepEqual([before, server.isClosed], [false, true]);
});

test('an operation answered twice, or after its answer failed, is a bug that its peer does not see', async () => {
  const { requester, service, connect, replies } = world();
  connect();
  service.on(Seek, (_context, { offset }, incoming) => {
    incoming.answer({ reply: { offset } });
    if (offset === 1) incoming.answer({ reply: { offset } });
    if (offset === 2) return { reply: { offset } };
    throw new FsError('EIO', 'too late');
  });
  const offsets = [1, 2, 3];
  const answers = await Promise.all(offsets.map((offset) => requester.call(Seek, seekFrom(offset))));
  assert.deepEqual([answers.map((answer) => answer.reply.offset), replies.length], [offsets, 3]);
});

test('a reply that does not fit its operation fails that call only', async () => {
  const { requester, service, connect } = world();
  connect();
  const other = operation(Read.opcode, 'READ', Read.request, message('R', { sizeBytes: req(1, text(9)) }));
  service.on(other, () => ({ reply: { sizeBytes: 'five' } }));
  service.on(Ping, () => ({ reply: {} }));
  const link: Pick<Link, 'isClosed'> = connect().client;
  assert.equal(
    await failure(requester.call(Read, { fid: 1 as Fid, offset: 0, length: 1 })),
    'EPROTO ReadReply.sizeBytes: not a uint',
  );
  await requester.call(Ping, {});
  assert.equal(link.isClosed, false);
});

test('while calls are held only those go out that mean this connection; the others follow in their order', async () => {
  const { requester, service, connect, arrived } = world();
  service.on(Seek, (_context, { offset }) => ({ reply: { offset } }));
  service.on(Ping, () => ({ reply: {} }));
  const { client } = connect();
  requester.attach(client, { resend: false, hold: true });
  const held = [requester.call(Seek, seekFrom(1)), requester.call(Seek, seekFrom(2))];
  await requester.call(Ping, {}, { connectionOnly: true });
  assert.deepEqual(
    arrived.map((header) => header.xid),
    [3],
  );
  requester.attach(client, { resend: true });
  await Promise.all(held);
  assert.deepEqual(
    arrived.map((header) => [header.xid, header.flags]),
    [
      [3, 0],
      [1, 0],
      [2, 0],
    ],
  );
});

test('what changed something is told with its bytes before it is applied, and can be sent once more as it was', async () => {
  const told: string[] = [];
  let kept: AnsweredRequest | undefined;
  const observer: AnswerObserver = {
    committed: (transno) => told.push(`committed ${transno}`),
    executed: (operation, { xid, body, bulk }, transno, reply) => {
      told.push(`${operation.name} ${transno} ${JSON.stringify(reply)}`);
      kept = { opcode: operation.opcode, xid, body, bulk, transno };
    },
  };
  const { requester, service, connect, arrived } = world({}, observer);
  const bulks: string[] = [];
  service.on(Write, (_context, { offset }, { bulk }) => {
    bulks.push(bulk.toString());
    return { reply: { blocks: offset, grantBytes: 0 }, transno: 99 as Transno };
  });
  service.on(Seek, (_context, { offset }) => ({ reply: { offset } }));
  connect();
  const request = { fid: 5 as Fid, offset: 8, mtime: { sec: 1, nsec: 2 }, grantUsed: 0 };
  const apply = (): void => void told.push('applied');
  await requester.call(Write, request, { bulk: [Buffer.from('abc')], apply });
  await requester.call(Seek, seekFrom(1));
  assert.deepEqual(told, ['committed 7', 'WRITE 99 {"blocks":8,"grantBytes":0}', 'applied', 'committed 7']);
  assert.ok(kept !== undefined);
  assert.equal(await requester.replay(kept), 0);
  const last = arrived.at(-1);
  assert.deepEqual(
    [last?.xid, last?.transno, last?.flags, bulks, told.length],
    [1, 99, FLAG_REPLAY | FLAG_RECOVERY, ['abc', 'abc'], 5],
  );
});

test('a replay ends with the connection; its errno is its answer', async () => {
  const { requester, service, connect } = world();
  const request = { xid: 1 as Xid, opcode: Seek.opcode, transno: 5 as Transno, bulk: undefined };
  const body = encode(Seek.request, seekFrom(1));
  assert.equal(
    await failure(requester.replay({ ...request, body })),
    'ENOTCONN SEEK: the connection is lost',
  );
  service.on(Seek, () => {
    throw new FsError('ENOENT');
  });
  connect();
  assert.equal(await requester.replay({ ...request, body }), 2);
  const lost = failure(requester.replay({ ...request, body }));
  requester.detach();
  assert.equal(await lost, 'ENOTCONN SEEK: the connection is lost');
});

test('a peer that has forgotten us: calls that are kept are sent as if for the first time, the others end', async () => {
  const { requester, service, connect, arrived } = world();
  const first = connect();
  first.server.pause();
  const kept = requester.call(Getattr, { fid: 5 as Fid, want: 0 });
  const ended = failure(requester.call(Seek, seekFrom(1)));
  requester.detach();
  const unsent = failure(requester.call(Seek, seekFrom(2)));
  const sent: [string, boolean][] = [];
  requester.renew(new FsError('EIO', 'evicted'), ({ name }, wasSent) => {
    sent.push([name, wasSent]);
    return name === 'GETATTR';
  });
  assert.deepEqual(
    [sent, await ended, await unsent],
    [
      [
        ['GETATTR', true],
        ['SEEK', true],
        ['SEEK', false],
      ],
      'EIO evicted',
      'EIO evicted',
    ],
  );
  service.on(Getattr, () => {
    throw new FsError('ENOENT', 'asked again');
  });
  connect();
  assert.equal(await failure(kept), 'ENOENT GETATTR: asked again');
  assert.deepEqual([arrived.at(-1)?.xid, arrived.at(-1)?.flags], [1, 0]);
});
