import assert from 'node:assert/strict';
import test from 'node:test';
import { S_IFDIR, S_IFLNK, S_IFREG } from '../../../src/base/attr.js';
import type { Fh, Fid, Name } from '../../../src/base/ids.js';
import type { AttrsWithValidity, DirEntry, FsClient } from '../../../src/client/api.js';
import { FOPEN, INIT_FLAG } from '../../../src/fuse/constants.js';
import type { DirEntryOut, FuseHandlers, LockIn } from '../../../src/fuse/handlers.js';
import { createVfs } from '../../../src/vfs/vfs.js';
import { knownOf, requestOf, scriptedClient } from '../../fixtures/scripted_client.js';

const F = 20 as Fid;
const DIRECT_MAPS = INIT_FLAG.DIRECT_IO_ALLOW_MMAP;

function handlersOf(script: Partial<FsClient>, flags: bigint = DIRECT_MAPS): FuseHandlers {
  const vfs = createVfs();
  vfs.attach(scriptedClient(script));
  vfs.handlers.init?.({ minor: 45, flags, maxWrite: 1 << 20 });
  return vfs.handlers;
}

test('answers that the client has at once are no promises', () => {
  const handlers = handlersOf({
    lookup: () => knownOf(F),
    getattr: () => knownOf(F),
    open: () => 3 as Fh,
    read: () => [Buffer.from('x')],
    write: () => 1,
    flush: () => undefined,
    release: () => undefined,
    readdir: () => ({ entries: [], end: true, parent: 1 as Fid }),
  });
  const request = requestOf();
  const answers = [
    handlers.lookup(request, 1, 'f'),
    handlers.getattr(request, F, undefined),
    handlers.open(request, F, 2),
    handlers.read(request, F, { fh: 3, offset: 0, sizeBytes: 1, flags: 2 }),
    handlers.write(request, F, {
      fh: 3,
      offset: 0,
      data: Buffer.from('x'),
      flags: 2,
      writeback: false,
      killSuidgid: false,
    }),
    handlers.flush(request, F, 3, '0'.repeat(16)),
    handlers.release(request, F, { fh: 3, flags: 2, owner: '0'.repeat(16), flockUnlock: false }),
    handlers.readdir(request, F, 3, 0, false, () => true),
  ];
  assert.deepEqual(
    answers.map((answer) => answer instanceof Promise),
    new Array(answers.length).fill(false),
  );
});

test('names longer than 255 bytes are refused before the client is asked', () => {
  const handlers = handlersOf({});
  const request = requestOf();
  const long = 'x'.repeat(256);
  const refused = { code: 'ENAMETOOLONG' };
  assert.throws(() => handlers.lookup(request, 1, long), refused);
  assert.throws(() => handlers.mkdir(request, 1, long, { mode: 0o777, umask: 0 }), refused);
  assert.throws(() => handlers.rename(request, 1, 'a', 1, long, 0), refused);
  assert.throws(() => handlers.link(request, F, 1, long), refused);
  assert.throws(() => handlers.create(request, 1, long, { mode: 0o644, umask: 0, flags: 1 }), refused);
  assert.throws(() => handlers.symlink(request, 1, 'a', Buffer.alloc(4096, 'x')), refused);
});

test('new objects carry their type, the umask and copies of what dies with the request', () => {
  const made: unknown[] = [];
  const handlers = handlersOf({
    create: (_op, _parent, name, object) => {
      made.push([name, object]);
      return knownOf(F);
    },
    createAndOpen: (_op, _parent, name, object, flags) => {
      made.push([name, object, flags]);
      return { known: knownOf(F), fh: 9 as Fh };
    },
  });
  const request = requestOf();
  const target = Buffer.from('to');
  handlers.mkdir(request, 1, 'd', { mode: S_IFDIR | 0o1755, umask: 0o22 });
  handlers.symlink(request, 1, 's', target);
  target.fill('x');
  handlers.mknod(request, 1, 'p', { mode: 0o010644, umask: 0, rdev: 0 });
  handlers.create(request, 1, 'f', { mode: 0o666, umask: 0o77, flags: 2 });
  handlers.tmpfile(request, 1, { mode: 0o600, umask: 0, flags: 2 });
  assert.deepEqual(made, [
    ['d', { mode: S_IFDIR | 0o1755, umask: 0o22 }],
    ['s', { mode: S_IFLNK | 0o777, umask: 0, linkText: Buffer.from('to') }],
    ['p', { mode: 0o010644, umask: 0, rdev: 0 }],
    ['f', { mode: S_IFREG | 0o666, umask: 0o77 }, 2],
    [undefined, { mode: S_IFREG | 0o600, umask: 0 }, 2],
  ]);
});

test('open flags follow from how the file is opened, what the kernel can do and what is locked', async () => {
  const flagsOf = async (kernel: bigint, locked: boolean, flags: number): Promise<number> => {
    const handlers = handlersOf({ open: () => 3 as Fh, holdsDataLock: () => locked }, kernel);
    return (await handlers.open(requestOf(), F, flags)).openFlags;
  };
  const [read, write, both, append, direct] = [0, 1, 2, 0o2002, 0o40000];
  assert.deepEqual(
    {
      new: await Promise.all(
        [read, write, both, append, direct].map((flags) => flagsOf(DIRECT_MAPS, false, flags)),
      ),
      old: await Promise.all([read, write, both, append, direct].map((flags) => flagsOf(0n, false, flags))),
      locked: await flagsOf(DIRECT_MAPS, true, read),
    },
    {
      new: [0, FOPEN.DIRECT_IO, FOPEN.DIRECT_IO, FOPEN.DIRECT_IO, FOPEN.DIRECT_IO],
      old: [0, FOPEN.DIRECT_IO, 0, FOPEN.DIRECT_IO, FOPEN.DIRECT_IO],
      locked: FOPEN.KEEP_CACHE,
    },
  );
});

test('an open that truncates for somebody without CAP_FSETID drops set-id bits, where there are some', async () => {
  const seen: unknown[] = [];
  const suid = { ...knownOf(F), attr: { ...knownOf(F).attr, mode: S_IFREG | 0o4755 } };
  const script = (known: AttrsWithValidity): Partial<FsClient> => ({
    mayHaveSetId: () => known === suid,
    setattr: (_op, _fid, change) => {
      seen.push(change);
      return knownOf(F);
    },
    open: () => 3 as Fh,
    createAndOpen: () => ({ known, fh: 4 as Fh }),
  });
  const create = { mode: S_IFREG | 0o755, umask: 0, flags: 0o1001, killSuidgid: true };
  for (const known of [knownOf(F), suid]) {
    const handlers = handlersOf(script(known));
    const open = await handlers.open(requestOf(), F, 0o1001, true);
    const made = await handlers.create(requestOf(), 1, 'f', create);
    assert.deepEqual([open.fh, made.fh, made.attr.mode], [3, 4, S_IFREG | 0o644]);
  }
  // A new file keeps what was asked for.
  await handlersOf(script(suid)).create(requestOf(), 1, 'f', { ...create, mode: S_IFREG | 0o4755 });
  assert.deepEqual(seen, [{ killSuidgid: true }, { killSuidgid: true }]);
});

test('a write tells the client whether it appends, is synchronous, or comes from a mapping', () => {
  const seen: unknown[] = [];
  const handlers = handlersOf({
    mayHaveSetId: () => false,
    write: (_op, fh, _fid, offset, data, options) => {
      seen.push([fh, offset, data.length, options]);
      return data.length;
    },
  });
  const write = (flags: number, writeback: boolean): unknown =>
    handlers.write(requestOf(), F, {
      fh: 7,
      offset: 4096,
      data: Buffer.from('data'),
      flags,
      writeback,
      killSuidgid: !writeback,
    });
  write(0o2001, false);
  write(0o4010002, false);
  write(0o2002, true);
  assert.deepEqual(seen, [
    [7, 4096, 4, { append: true, writeback: false, sync: false, killSuidgid: false, direct: true }],
    [7, 4096, 4, { append: false, writeback: false, sync: true, killSuidgid: false, direct: true }],
    [undefined, 4096, 4, { append: false, writeback: true, sync: false, killSuidgid: false, direct: false }],
  ]);
});

test('a write by somebody without CAP_FSETID drops set-id bits where there may be some, and no others pay for it', async () => {
  const asked: boolean[] = [];
  for (const mayHaveSetId of [false, true]) {
    const handlers = handlersOf({
      mayHaveSetId: () => mayHaveSetId,
      write: (_op, _fh, _fid, _offset, data, options) => {
        asked.push(options.killSuidgid);
        return Promise.resolve(data.length);
      },
    });
    const write = { fh: 7, offset: 0, data: Buffer.from('x'), flags: 1, writeback: false, killSuidgid: true };
    assert.equal(await handlers.write(requestOf(), F, write), 1);
  }
  assert.deepEqual(asked, [false, true]);
});

/** Reads a directory as the kernel does, `fit` entries a reply. */
async function list(handlers: FuseHandlers, fit: number, plus: boolean, from = 0): Promise<DirEntryOut[]> {
  const all: DirEntryOut[] = [];
  for (let offset = from; ; ) {
    const reply: DirEntryOut[] = [];
    await handlers.readdir(requestOf(), F, 3, offset, plus, (entry) => {
      if (reply.length === fit) return false;
      reply.push(entry);
      return true;
    });
    if (reply.length === 0) return all;
    all.push(...reply);
    offset = reply.at(-1)?.cookie ?? 0;
  }
}

function directory(count: number, asked: number[] = []): Partial<FsClient> {
  const entries: DirEntry[] = [];
  for (let at = 1; at <= count; at += 1) {
    entries.push({
      name: `n${at}` as Name,
      fid: (100 + at) as Fid,
      type: S_IFREG,
      cookie: at * 1000,
      known: knownOf(100 + at),
    });
  }
  return {
    forgotten: () => undefined,
    readdir: (_op, _fh, cookie, limit) => {
      asked.push(limit);
      const rest = entries.filter((entry) => entry.cookie > cookie);
      return { entries: rest.slice(0, limit), end: rest.length <= limit, parent: 5 as Fid };
    },
  };
}

test('a directory begins with dot and dot-dot, and goes on from any position, whatever fits a reply', async () => {
  const expected = ['.', '..', 'n1', 'n2', 'n3', 'n4', 'n5'];
  for (const fit of [1, 2, 3, 100]) {
    const handlers = handlersOf(directory(5));
    const entries = await list(handlers, fit, false);
    assert.deepEqual(
      entries.map((entry) => entry.name),
      expected,
    );
    for (const [index, entry] of entries.entries()) {
      const rest = await list(handlers, fit, false, entry.cookie);
      assert.deepEqual(
        rest.map((item) => item.name),
        expected.slice(index + 1),
      );
    }
  }
  const [dot, dotDot] = await list(handlersOf(directory(0)), 10, true);
  assert.deepEqual([dot?.ino, dot?.entry, dotDot?.ino, dotDot?.entry], [F, undefined, 5, undefined]);
});

test('READDIRPLUS counts a lookup for what fitted, and none for what did not', async () => {
  const vfs = createVfs();
  const dropped: number[] = [];
  vfs.attach(scriptedClient(directory(5)));
  vfs.handlers.init?.({ minor: 45, flags: DIRECT_MAPS, maxWrite: 1 << 20 });
  vfs.bind({
    invalidateAttr: (nodeid) => {
      dropped.push(nodeid);
      return Promise.resolve();
    },
    invalidateData: () => Promise.resolve(),
    bumpEpoch: () => Promise.resolve(true),
    flushReplies: () => undefined,
  });
  let room = 4;
  await vfs.handlers.readdir(requestOf(), F, 3, 0, true, () => room-- > 0);
  await vfs.kernelCache.dropAttrs([101, 102, 103, 104, 105] as Fid[]);
  assert.deepEqual(dropped, [101, 102]);
});

test('an answer that is pages shorter than asked is not overtaken: the kernel learns the size from it', async () => {
  for (const { length, dropped } of [
    { length: 8192, dropped: [F] },
    // The end is in the last page: the kernel may know the size, and loose attributes could take the end back.
    { length: 5000, dropped: [F] },
    { length: 4096, dropped: [] },
    { length: 0, dropped: [] },
  ]) {
    const vfs = createVfs();
    const told: number[] = [];
    vfs.attach(scriptedClient({ getattr: () => knownOf(F, false), read: () => [Buffer.alloc(length)] }));
    vfs.bind({
      invalidateAttr: async (nodeid) => {
        told.push(nodeid);
      },
      invalidateData: async () => undefined,
      bumpEpoch: async () => true,
      flushReplies: () => undefined,
    });
    await vfs.handlers.getattr(requestOf(), F, undefined);
    await vfs.handlers.read(requestOf(), F, { fh: 3, offset: 0, sizeBytes: 8192, flags: 0, direct: false });
    assert.deepEqual(told, dropped, `${length} of 8192 bytes`);
  }
});

test('the number of entries asked for follows what replies hold', async () => {
  const asked: number[] = [];
  await list(handlersOf(directory(2000, asked)), 500, true);
  assert.ok(asked.length < 12, `${asked.length} calls: ${asked.join(' ')}`);
  asked.length = 0;
  await list(handlersOf(directory(500, asked)), 20, false);
  assert.deepEqual([...new Set(asked.slice(2))], [28]);
});

const lockIn = (change: Partial<LockIn>): LockIn => ({
  fh: 3,
  owner: 'a'.repeat(16),
  type: 'write',
  start: 0,
  end: undefined,
  pid: 42,
  flock: false,
  wait: false,
  ...change,
});

test('locks reach the client with their kind, and a test answers the conflict or an unlock', async () => {
  const seen: unknown[] = [];
  const handlers = handlersOf({
    setLock: (_op, fh, lock, wait) => {
      seen.push(['set', fh, lock, wait]);
    },
    unlock: (_op, fh, lock) => {
      seen.push(['unlock', fh, lock]);
    },
    testLock: (_op, _fh, lock) =>
      lock.start === 0 ? { ...lock, pid: 77, exclusive: false, end: 9 } : undefined,
  });
  const request = requestOf();
  await handlers.setlk(request, F, lockIn({ flock: true, wait: true }));
  await handlers.setlk(request, F, lockIn({ type: 'read', start: 5, end: 9 }));
  await handlers.setlk(request, F, lockIn({ type: 'unlock', wait: true }));
  const owner = 'a'.repeat(16);
  assert.deepEqual(
    [
      seen,
      await handlers.getlk(request, F, lockIn({})),
      await handlers.getlk(request, F, lockIn({ start: 5 })),
    ],
    [
      [
        ['set', 3, { kind: 'flock', owner, pid: 42, exclusive: true, start: 0, end: undefined }, true],
        ['set', 3, { kind: 'posix', owner, pid: 42, exclusive: false, start: 5, end: 9 }, false],
        ['unlock', 3, { kind: 'posix', owner, pid: 42, exclusive: false, start: 0, end: undefined }],
      ],
      { type: 'read', start: 0, end: 9, pid: 77 },
      { type: 'unlock', start: 5, end: undefined, pid: 0 },
    ],
  );
});

test('locks of an open file description end with its last close, those of a process were gone before', async () => {
  const flushed: string[] = [];
  const released: unknown[] = [];
  const handlers = handlersOf({
    setLock: () => undefined,
    flush: (_op, fh, owner) => {
      flushed.push(`${fh} ${owner[0]}`);
    },
    release: (fh, flockOwner) => {
      released.push([fh, flockOwner]);
    },
  });
  const request = requestOf();
  const process = 'b'.repeat(16);
  const description = 'c'.repeat(16);
  await handlers.setlk(request, F, lockIn({ owner: process }));
  await handlers.setlk(request, F, lockIn({ owner: description }));
  await handlers.flush(request, F, 3, process);
  await handlers.release(request, F, { fh: 3, flags: 2, owner: description, flockUnlock: false });
  await handlers.release(request, F, { fh: 4, flags: 2, owner: process, flockUnlock: true });
  assert.deepEqual(
    [flushed, released],
    [
      ['3 b', '3 c'],
      [
        [3, undefined],
        [4, process],
      ],
    ],
  );
});

test('copying a range onto itself is refused', () => {
  const handlers = handlersOf({
    mayHaveSetId: () => false,
    copyRange: (_op, _a, _b, _c, _d, length) => length,
  });
  const at = (offset: number): { nodeid: number; fh: number; offset: number } => ({
    nodeid: F,
    fh: 3,
    offset,
  });
  assert.throws(() => handlers.copyFileRange(requestOf(), at(0), at(50), 100), { code: 'EINVAL' });
  assert.equal(handlers.copyFileRange(requestOf(), at(0), at(100), 100), 100);
});
