/**
 * Recovery of squashed clients: what a ticket proves comes back, whatever has become of the file; what a client only says that it
 * had does not.
 */

import assert from 'node:assert/strict';
import { test } from 'node:test';
import { ACCESS_READ, ACCESS_WRITE, O_TRUNC } from '../../../../src/base/attr.js';
import { errnoName } from '../../../../src/base/errno.js';
import type { ClientUuid, Fid } from '../../../../src/base/ids.js';
import { nodeMac } from '../../../../src/runtime/node_mac.js';
import { isSameTicket, ticketFor } from '../../../../src/server/access/tickets.js';
import { Fallocate, Read, Write } from '../../../../src/wire/data.js';
import { FLAG_RECOVERY, FLAG_RESENT } from '../../../../src/wire/header.js';
import { Enqueue } from '../../../../src/wire/lock.js';
import { Create, Getattr, Link, Open, Readdir, Setattr, Unlink } from '../../../../src/wire/meta.js';
import {
  Disconnect,
  RecoveryDone,
  ReplayLocks,
  ReplayOpens,
  ReplayTickets,
} from '../../../../src/wire/session.js';
import { nameOf, type RawClient, type ServerWorld } from '../../../worlds/server_world.js';
import { backWith, OTHER, squashedWorld, USER, withKey } from '../../../worlds/squashed.js';

const RDONLY = 0;
const WRONLY = 1;
const RDWR = 2;
const BOTH = ACCESS_READ | ACCESS_WRITE;
const MTIME = { sec: 1, nsec: 0 };
const ROOT_DIR = 1 as Fid;

async function opened(client: RawClient, fid: Fid, flags: number) {
  const fh = client.newFh();
  const { ticket } = await client.call(Open, { fid, fh, flags, want: 0, caller: USER });
  assert.ok(ticket, 'a squashed session gets a ticket');
  const access = [ACCESS_READ, ACCESS_WRITE, BOTH][flags] ?? 0;
  return { open: { fid, fh, flags }, ticket: { fid, access, ticket } };
}

/** All replays of these clients, in the order of their transnos, as the recovery window needs them. */
async function again(world: ServerWorld, others: readonly RawClient[]): Promise<void> {
  await Promise.all(
    others.map(async (one) => {
      const { outcome } = await one.connect({ hasMoreThanOpens: true });
      assert.equal(outcome, 'recover');
    }),
  );
  assert.equal(world.last.state, 'recovering');
}

async function content(client: RawClient, fid: Fid): Promise<string> {
  const { bulk } = await client.answer(Read, { fid, offset: 0, length: 9 });
  return bulk.toString();
}

test('a ticket is for one client, one entry, one file and one access', () => {
  const secret = Buffer.alloc(32, 7);
  const uuid = '00112233-4455-6677-8899-aabbccddeeff' as ClientUuid;
  const holder = { uuid, rights: { principal: 'key:web', sinceMs: 5 } };
  const made = ticketFor(nodeMac, secret, holder, 9 as Fid, ACCESS_READ);
  assert.equal(made.toString('hex'), 'bfcd1cdc39f7ec3ded2767922502d474');
  const others = [
    ticketFor(nodeMac, Buffer.alloc(32, 8), holder, 9 as Fid, ACCESS_READ),
    ticketFor(
      nodeMac,
      secret,
      { ...holder, uuid: uuid.replace('0', '1') as ClientUuid },
      9 as Fid,
      ACCESS_READ,
    ),
    ticketFor(
      nodeMac,
      secret,
      { uuid, rights: { principal: 'key:web2', sinceMs: 5 } },
      9 as Fid,
      ACCESS_READ,
    ),
    ticketFor(nodeMac, secret, { uuid, rights: { principal: 'key:web', sinceMs: 6 } }, 9 as Fid, ACCESS_READ),
    ticketFor(nodeMac, secret, holder, 10 as Fid, ACCESS_READ),
    ticketFor(nodeMac, secret, holder, 9 as Fid, BOTH),
  ];
  for (const other of others) assert.equal(isSameTicket(made, other), false);
  assert.equal(isSameTicket(made, Buffer.from(made)), true);
  assert.equal(isSameTicket(made, made.subarray(0, 15)), false);
});

test('tickets of a table that was empty in between are made with the secret that the target has', async (t) => {
  const { world, file } = await squashedWorld(t);
  const fid = await file('f', 0o644);
  const first = world.last.target?.store.ticketSecret();
  world.table.remove('web');
  assert.equal(world.last.target?.store.ticketSecret(), undefined);
  const rights = { readOnly: false, squashRoot: true, admin: false };
  const { key } = world.table.add({ name: 'web', kind: 'key', ...rights, from: [], limits: {} });
  const second = world.last.target?.store.ticketSecret();
  assert.notDeepEqual(second, first);
  assert.ok(second && key);
  const web = world.client('web');
  web.origin = withKey(key.id);
  await web.connect({ secret: 'x' });
  await web.activate();
  const { ticket } = await opened(web, fid, RDONLY);
  const sinceMs = world.table.named('web')?.createdMs;
  const holder = { uuid: web.uuid as ClientUuid, rights: { principal: 'key:web', sinceMs } };
  assert.equal(isSameTicket(ticket.ticket, ticketFor(nodeMac, second, holder, fid, ACCESS_READ)), true);
});

test('an honest client keeps its open files after a crash: unlinked, closed to it, given away', async (t) => {
  const { world, client, file, directory, root } = await squashedWorld(t);
  const dir = await directory('tmp', 0o777);
  const closed = await file('closed', 0o666, { parent: dir });
  const gone = await file('gone', 0o666, { parent: dir });
  const given = await file('given', 0o600, { parent: dir, uid: 1000 });
  const web = await client('web');
  const handles = [
    await opened(web, closed, RDONLY),
    await opened(web, gone, RDWR),
    await opened(web, given, RDWR),
  ];
  const listing = await opened(web, dir, RDONLY);
  await root.call(Setattr, { fid: closed, mode: 0 });
  await root.call(Setattr, { fid: given, uid: 0 });
  await root.call(Unlink, { parent: dir, name: nameOf('gone'), directory: false });
  await root.call(Setattr, { fid: dir, mode: 0o700 });
  await web.call(Enqueue, { type: 'data', fid: gone, mode: 'PW' });
  await web.call(
    Write,
    { fid: gone, offset: 0, mtime: MTIME, grantUsed: 0 },
    { bulk: [Buffer.from('dirty')] },
  );
  await world.crash();
  await world.server();
  await again(world, [root]);
  const rest = root.replayAll();
  await backWith(
    web,
    [...handles, listing].map(({ ticket }) => ticket),
  );
  const { lost, locks, replays } = await web.replayAll(
    [...handles, listing].map(({ open }) => open),
    [
      { fid: gone, type: 'data', mode: 'PW' },
      { fid: closed, type: 'data', mode: 'PR' },
    ],
  );
  await rest;
  assert.deepEqual(
    [lost, locks.map((handle) => handle > 0), replays],
    [[], [true, true], replays.map(() => 0)],
  );
  const over = root.call(RecoveryDone, {}, { flags: FLAG_RECOVERY });
  await web.call(RecoveryDone, {}, { flags: FLAG_RECOVERY });
  await over;
  await Promise.all([web.goOn(), root.goOn()]);
  assert.equal(await content(web, gone), 'dirty');
  await web.call(Read, { fid: closed, offset: 0, length: 1 });
  await web.call(Setattr, { fid: given, sizeBytes: 3 });
  await web.call(Readdir, { fid: dir, cookie: 0, limit: 9, plus: false, want: 0, caller: USER });
  assert.equal(await web.errno(Setattr, { fid: closed, sizeBytes: 3 }), 'EACCES');
  // It is over: tickets say nothing any more.
  assert.equal(await web.errno(ReplayTickets, { tickets: handles.map(({ ticket }) => ticket) }), 'EPROTO');
});

test('changes through handles are replayed, also of files that their caller may not write any more', async (t) => {
  const { world, client, file, root } = await squashedWorld(t);
  const fid = await file('f', 0o666);
  const web = await client('web');
  const { ticket } = await opened(web, fid, WRONLY);
  await web.call(Enqueue, { type: 'data', fid, mode: 'PW' });
  await root.call(Setattr, { fid, mode: 0o600 });
  await world.last.target?.store.sync();
  world.hold();
  await web.call(Write, { fid, offset: 0, mtime: MTIME, grantUsed: 0 }, { bulk: [Buffer.from('longer')] });
  await web.call(Setattr, { fid, sizeBytes: 4 });
  await web.call(Fallocate, { fid, mode: 0, offset: 0, length: 6 });
  await world.crash();
  await world.server();
  await again(world, [root]);
  const rest = root.replayAll();
  await backWith(web, [ticket]);
  const { replays } = await web.replayAll();
  await rest;
  assert.deepEqual(replays, [0, 0, 0]);
  const over = root.call(RecoveryDone, {}, { flags: FLAG_RECOVERY });
  await web.call(RecoveryDone, {}, { flags: FLAG_RECOVERY });
  await over;
  assert.equal(world.last.target?.store.inode(fid)?.sizeBytes, 6);
});

test('names that were made, and what was made nameless and then linked, are replayed', async (t) => {
  const { world, client, directory } = await squashedWorld(t);
  const dir = await directory('tmp', 0o777);
  const web = await client('web');
  await world.last.target?.store.sync();
  world.hold();
  await web.create('d', { parent: dir, mode: 0o040700, caller: USER });
  const made = await web.create(undefined, {
    parent: dir,
    mode: 0o100400,
    caller: USER,
    fh: web.newFh(),
    flags: RDWR,
  });
  const { fid } = made.attr;
  await web.call(Link, { fid, parent: dir, name: nameOf('linked'), caller: USER });
  await web.call(Enqueue, { type: 'data', fid, mode: 'PW' });
  await web.call(Write, { fid, offset: 0, mtime: MTIME, grantUsed: 0 }, { bulk: [Buffer.from('text')] });
  await world.crash();
  await world.server();
  assert.ok(made.ticket);
  await backWith(web, [{ fid, access: BOTH, ticket: made.ticket }]);
  const { replays } = await web.replayAll();
  assert.deepEqual(replays, [0, 0, 0, 0]);
  assert.deepEqual(
    [world.last.target?.store.inode(fid)?.nlink, world.last.target?.store.inode(fid)?.uid],
    [1, 1000],
  );
});

/** A client that comes back after a crash, alone: the others are evicted. */
async function malicious(t: Parameters<typeof squashedWorld>[0]) {
  const made = await squashedWorld(t);
  const { world, client, file, root } = made;
  const secret = await file('secret', 0o600);
  await root.call(
    Write,
    { fid: secret, offset: 0, mtime: MTIME, grantUsed: 0 },
    { bulk: [Buffer.from('top')] },
  );
  const web = await client('web');
  const twin = await client('twin');
  await world.last.target?.store.sync();
  return { ...made, secret, web, twin, root };
}

test('nothing comes back that no ticket proves', async (t) => {
  const { world, web, twin, secret, file } = await malicious(t);
  const shared = await file('shared', 0o644);
  const mine = await opened(web, shared, RDONLY);
  const twins = await opened(twin, shared, RDONLY);
  await world.last.target?.store.sync();
  await world.crash();
  await world.server();
  const forged = Buffer.alloc(16, 1);
  await backWith(web, [
    { fid: secret, access: BOTH, ticket: forged },
    // Of another file, for more, of another client, too short.
    { fid: secret, access: ACCESS_READ, ticket: mine.ticket.ticket },
    { fid: shared, access: BOTH, ticket: mine.ticket.ticket },
    { fid: shared, access: ACCESS_WRITE, ticket: twins.ticket.ticket },
    { fid: secret, access: ACCESS_READ, ticket: Buffer.alloc(0) },
    mine.ticket,
  ]);
  const [a, b, c] = [web.newFh(), web.newFh(), web.newFh()];
  const { lost } = await web.call(
    ReplayOpens,
    {
      opens: [
        { fid: secret, fh: a, flags: RDONLY },
        { fid: shared, fh: b, flags: RDWR },
        { fid: shared, fh: c, flags: RDONLY },
        { fid: secret, fh: web.newFh(), flags: 0o10000000 },
      ],
    },
    { flags: FLAG_RECOVERY },
  );
  assert.equal(lost.length, 3);
  assert.ok(!lost.includes(c));
  const { handles } = await web.call(
    ReplayLocks,
    {
      locks: [
        { fid: secret, type: 'data', mode: 'PR' },
        { fid: secret, type: 'data', mode: 'PW' },
        { fid: shared, type: 'data', mode: 'PW' },
        { fid: shared, type: 'data', mode: 'PR' },
        { fid: ROOT_DIR, type: 'inode', mode: 'EX', bits: 3 },
        { fid: secret, type: 'inode', mode: 'EX', bits: 2 },
      ],
    },
    { flags: FLAG_RECOVERY },
  );
  assert.deepEqual(
    handles.map((handle) => handle > 0),
    [false, false, false, true, false, false],
  );
});

for (const [what, send] of [
  [
    'a WRITE',
    (_: RawClient, fid: Fid) => ({
      operation: Write,
      request: { fid, offset: 0, mtime: MTIME, grantUsed: 0 },
      bulk: [Buffer.from('bad')],
    }),
  ],
  [
    'a truncate',
    (_: RawClient, fid: Fid) => ({ operation: Setattr, request: { fid, sizeBytes: 0, caller: USER } }),
  ],
  [
    'a chmod',
    (_: RawClient, fid: Fid) => ({ operation: Setattr, request: { fid, mode: 0o777, caller: OTHER } }),
  ],
  [
    'a CREATE in a directory of root',
    (web: RawClient) => ({
      operation: Create,
      request: {
        parent: ROOT_DIR,
        name: nameOf('planted'),
        fid: web.newFid(),
        mode: 0o100644,
        umask: 0,
        uid: 0,
        gid: 0,
        exclusive: true,
        want: 0,
        caller: USER,
      },
    }),
  ],
  [
    'an UNLINK',
    () => ({
      operation: Unlink,
      request: { parent: ROOT_DIR, name: nameOf('secret'), directory: false, caller: USER },
    }),
  ],
  [
    'a FALLOCATE',
    (_: RawClient, fid: Fid) => ({ operation: Fallocate, request: { fid, mode: 0, offset: 0, length: 9 } }),
  ],
] as const) {
  test(`${what} that was never executed does not pass as a replay`, async (t) => {
    const { world, web, secret, root, twin } = await malicious(t);
    // So that there is an xid and a transno for it.
    const { transno, xid } = await web.answer(Setattr, { fid: ROOT_DIR, caller: USER } as never);
    await root.call(Disconnect, {});
    await twin.call(Disconnect, {});
    await world.crash();
    await world.server();
    await backWith(web, []);
    const made = send(web, secret);
    const errno = await Promise.race([
      web.replay({ bulk: undefined, reply: {}, ...made, xid, transno: transno + 1 } as never),
      world.time.until('it is evicted', () => web.evictions.length > 0).then(() => -1),
    ]);
    assert.notEqual(errno, 0);
    await world.time.until('it is evicted', () => web.evictions.length > 0);
    const { store } = world.last.target ?? assert.fail();
    assert.deepEqual(
      [store.inode(secret)?.sizeBytes, store.inode(secret)?.mode, store.dirent(ROOT_DIR, nameOf('planted'))],
      [3, 0o100600, undefined],
    );
  });
}

for (const [what, expected] of [
  ['OPEN', 'EACCES'],
  ['CREATE', 'EPROTO'],
] as const) {
  test(`an answer that is asked for again, as ${what}, opens nothing that its caller may not open`, async (t) => {
    const { world, client, file, root } = await squashedWorld(t);
    const secret = await file('secret', 0o600);
    const open = await file('open', 0o666);
    const web = await client('web');
    // OPEN with O_TRUNC leaves a record, as everything that changes something.
    const asked = { fid: open, fh: web.newFh(), flags: WRONLY | O_TRUNC, want: 0, caller: USER };
    const { xid: before, transno } = await web.answer(Getattr, { fid: open, want: 0 });
    // Its answer is lost, so the client does not acknowledge it.
    web.deaf = true;
    void web.call(Open, asked).catch(() => undefined);
    const xid = before + 1;
    await world.time.until(
      'it is executed',
      () => world.last.target?.exports.get(web.uuid as never)?.opens.size === 1,
    );
    web.deaf = false;
    await root.call(Disconnect, {});
    await world.last.target?.store.sync();
    await world.crash();
    await world.server();
    await backWith(web, []);
    await web.call(RecoveryDone, {}, { flags: FLAG_RECOVERY });
    await web.activate();
    const again = async (operation: unknown, request: object): Promise<string> =>
      errnoName(
        await web.replay(
          { operation, request, bulk: undefined, xid, transno, reply: {} } as never,
          FLAG_RESENT,
        ),
      );
    const creation = { mode: 0o100600, umask: 0, uid: 0, gid: 0, exclusive: false, want: 0, caller: USER };
    const create = {
      ...creation,
      parent: ROOT_DIR,
      name: nameOf('x'),
      fid: secret,
      fh: web.newFh(),
      flags: RDWR,
    };
    const reopen = { ...asked, fid: secret, flags: RDWR };
    assert.equal(await (what === 'OPEN' ? again(Open, reopen) : again(Create, create)), expected);
    assert.equal(await web.errno(Fallocate, { fid: secret, mode: 0, offset: 0, length: 9 }), 'EPERM');
  });
}
