import assert from 'node:assert/strict';
import { test } from 'node:test';
import fc from 'fast-check';
import { type Attr, S_IFDIR, S_IFREG } from '../../../src/base/attr.js';
import { ERRNO, FsError } from '../../../src/base/errno.js';
import type { Fid } from '../../../src/base/ids.js';
import type { LockOffset } from '../../../src/base/lock_offset.js';
import { ENOTTY, INIT_FLAG, initFlagNames, OPCODE } from '../../../src/fuse/constants.js';
import type { EntryOut, FuseHandlers, RequestContext } from '../../../src/fuse/handlers.js';
import { kernelSide, request, someHandlers } from '../../fixtures/fuse_kernel_side.js';
import { MemoryHandlers } from '../../fixtures/memory_handlers.js';

const TIME = { sec: 1, nsec: 2 };
const ATTR: Attr = {
  fid: 18 as Fid,
  mode: S_IFREG | 0o644,
  nlink: 1,
  uid: 0,
  gid: 0,
  rdev: 0,
  sizeBytes: 3,
  blocks: 1,
  atime: TIME,
  mtime: TIME,
  ctime: TIME,
  btime: TIME,
};
const ENTRY: EntryOut = { attr: ATTR, generation: 0, entryValidSec: 0, attrValidSec: 0 };
const OFFSET_MAX = 2n ** 63n - 1n;

const errnos = (replies: { errno: number }[]): number[] => replies.map((reply) => reply.errno);

test('a handler that answers at once is answered in the same turn, through the slab, without a promise', () => {
  const side = kernelSide(new MemoryHandlers());
  const { then } = Promise.prototype;
  let promises = 0;
  // biome-ignore lint/suspicious/noThenProperty: counts uses of promises while the batch runs.
  Promise.prototype.then = function counted(this: Promise<unknown>, ...args: Parameters<typeof then>) {
    promises++;
    return then.apply(this, args);
  } as typeof then;
  try {
    const replies = side.batch(
      request({ opcode: OPCODE.GETATTR, unique: 2n }, 0, 0, 0n),
      request({ opcode: OPCODE.LOOKUP, unique: 4n }, 'none'),
      request({ opcode: OPCODE.MKDIR, unique: 6n }, 0o755, 0, 'dir'),
      request({ opcode: OPCODE.LOOKUP, unique: 8n }, 'dir'),
    );
    assert.deepEqual(
      replies.map(({ unique, errno }) => [unique, errno]),
      [
        [2n, 0],
        [4n, ERRNO.ENOENT],
        [6n, 0],
        [8n, 0],
      ],
    );
  } finally {
    // biome-ignore lint/suspicious/noThenProperty: puts back what was there.
    Promise.prototype.then = then;
  }
  assert.deepEqual([promises, side.device.sendCount, side.dispatcher.pendingCount], [0, 0, 0]);
});

test('an answer that comes later is sent by itself; until then the request is pending', async () => {
  let answer: (entry: EntryOut) => void = () => undefined;
  const side = kernelSide(
    someHandlers({
      lookup: () => new Promise((resolve) => (answer = resolve)),
      getattr: () => ({ attr: ATTR, attrValidSec: 0 }),
    }),
  );
  const first = side.batch(
    request({ opcode: OPCODE.LOOKUP, unique: 2n, pid: 7 }, 'a'),
    request({ opcode: OPCODE.GETATTR, unique: 4n }, 0, 0, 0n),
  );
  assert.deepEqual(
    first.map(({ unique }) => unique),
    [4n],
  );
  assert.deepEqual(side.dispatcher.pendingSummary(), [{ operation: 'LOOKUP', nodeid: 1, pid: 7 }]);
  const drained = side.dispatcher.drainPending();
  answer(ENTRY);
  await drained;
  const [reply] = await side.later();
  assert.deepEqual([reply?.unique, reply?.errno, reply?.body.readBigUInt64LE(0)], [2n, 0, 18n]);
  assert.equal(side.dispatcher.pendingCount, 0);
  await side.dispatcher.drainPending();
});

test('failures: an FsError is its errno, a bug is EIO, ENOSYS never reaches the kernel, at once and later', async () => {
  const failures: [unknown, number][] = [
    [new FsError('ENOSPC'), ERRNO.ENOSPC],
    [new TypeError('bug'), ERRNO.EIO],
    ['not even an error', ERRNO.EIO],
    [new FsError('ENOSYS'), ERRNO.EOPNOTSUPP],
  ];
  for (const [failure, errno] of failures) {
    for (const later of [false, true]) {
      const side = kernelSide(
        someHandlers({
          mkdir: () => {
            if (later) return Promise.reject(failure);
            throw failure;
          },
        }),
      );
      const replies = side.batch(request({ opcode: OPCODE.MKDIR }, 0o755, 0, 'd'));
      assert.deepEqual(errnos([...replies, ...(await side.later())]), [errno]);
    }
  }
});

test('a handler whose result is not what it should be is answered EIO, once', async () => {
  const side = kernelSide({
    lookup: () => ({}),
    getattr: () => Promise.resolve(undefined),
    read: () => [Buffer.alloc(9)],
    readlink: () => 'text',
  } as unknown as FuseHandlers);
  const replies = side.batch(
    request({ opcode: OPCODE.LOOKUP, unique: 2n }, 'a'),
    request({ opcode: OPCODE.GETATTR, unique: 4n }, 0, 0, 0n),
    request({ opcode: OPCODE.READ, unique: 6n }, 1n, 0n, 8, 0, 0n, 0, 0),
    request({ opcode: OPCODE.READLINK, unique: 8n }),
  );
  const all = [...replies, ...(await side.later())];
  const byUnique = new Map(all.map(({ unique, errno }) => [unique, errno]));
  assert.deepEqual(
    [...byUnique].sort(),
    [
      [2n, ERRNO.EIO],
      [4n, ERRNO.EIO],
      [6n, ERRNO.EIO],
      [8n, 0],
    ].sort(),
  );
  assert.equal(all.length, 4);
});

test('when the slab is full, answers are sent by themselves and none is lost', () => {
  const side = kernelSide(someHandlers({ getattr: () => ({ attr: ATTR, attrValidSec: 0 }) }), {
    slabBytes: 1000,
  });
  const requests = Array.from({ length: 20 }, (_, index) =>
    request({ opcode: OPCODE.GETATTR, unique: BigInt(2 * index) }, 0, 0, 0n),
  );
  const replies = side.batch(...requests);
  assert.deepEqual(
    replies.map(({ unique }) => unique).sort((a, b) => Number(a - b)),
    requests.map((_, index) => BigInt(2 * index)),
  );
  assert.ok(side.device.sendCount > 0 && side.device.sendCount < 20);
  for (const reply of replies) assert.equal(reply.body.length, 104);
});

test('small reads go through the slab, large ones by a send of their chunks', () => {
  const chunks = [Buffer.alloc(4000, 1), Buffer.alloc(96, 2), Buffer.alloc(100_000, 3)];
  const side = kernelSide(
    someHandlers({
      read: (_request, _nodeid, { sizeBytes }) => (sizeBytes > 4096 ? chunks : chunks.slice(0, 2)),
    }),
  );
  const read = (unique: bigint, size: number): Buffer =>
    request({ opcode: OPCODE.READ, unique }, 1n, 0n, size, 0, 0n, 0, 0);
  const [small] = side.batch(read(2n, 4096));
  assert.equal(side.device.sendCount, 0);
  assert.deepEqual(small?.body, Buffer.concat(chunks.slice(0, 2)));
  const [large] = side.batch(read(4n, 131072));
  assert.equal(side.device.sendCount, 1);
  assert.deepEqual(large?.body, Buffer.concat(chunks));
});

test('a nodeid, offset or size of 2^53 and above, and a lock at 2^63, is refused with the errno of its call', () => {
  const side = kernelSide(
    someHandlers({
      read: (_request, _nodeid, { offset }) => {
        assert.equal(offset, Number.MAX_SAFE_INTEGER);
        return [];
      },
    }),
  );
  const big = 2n ** 53n;
  const replies = side.batch(
    request({ opcode: OPCODE.GETATTR, nodeid: big }, 0, 0, 0n),
    request({ opcode: OPCODE.GETATTR, nodeid: 2n ** 64n - 1n }, 0, 0, 0n),
    request({ opcode: OPCODE.READ }, 1n, big, 4096, 0, 0n, 0, 0),
    request({ opcode: OPCODE.WRITE }, 1n, big, 1, 0, 0n, 0, 0, Buffer.from('x')),
    request({ opcode: OPCODE.FALLOCATE }, 1n, big - 1n, 1n, 0, 0),
    request({ opcode: OPCODE.LSEEK }, 1n, big, 3, 0),
    request({ opcode: OPCODE.SETLK }, 1n, 1n, OFFSET_MAX + 1n, OFFSET_MAX + 1n, 1, 1, 0, 0),
    request({ opcode: OPCODE.RENAME }, big, 'a', 'b'),
  );
  assert.deepEqual(errnos(replies), [
    ERRNO.EINVAL,
    ERRNO.EINVAL,
    0,
    ERRNO.EFBIG,
    ERRNO.EFBIG,
    ERRNO.ENXIO,
    ERRNO.EOVERFLOW,
    ERRNO.EINVAL,
  ]);
});

test('lock ranges are exact: inclusive ends become exclusive, and OFFSET_MAX alone is "to the end"', () => {
  const ranges: (readonly [LockOffset, LockOffset | undefined])[] = [];
  const side = kernelSide(
    someHandlers({ setlk: (_request, _nodeid, { start, end }) => void ranges.push([start, end]) }),
  );
  const lock = (start: bigint, end: bigint, type = 1): Buffer =>
    request({ opcode: OPCODE.SETLK }, 1n, 1n, start, end, type, 1, 0, 0);
  const replies = side.batch(
    lock(5n, 5n),
    lock(0n, 2n ** 53n - 2n),
    lock(0n, 2n ** 53n - 1n),
    lock(2n ** 53n + 1n, OFFSET_MAX - 1n),
    lock(OFFSET_MAX, OFFSET_MAX),
    lock(0n, OFFSET_MAX),
    lock(6n, 5n),
    lock(0n, 0n, 9),
  );
  assert.deepEqual(errnos(replies), [0, 0, 0, 0, 0, 0, ERRNO.EINVAL, ERRNO.EINVAL]);
  assert.deepEqual(ranges, [
    [5, 6],
    [0, 2 ** 53 - 1],
    [0, 2n ** 53n],
    [2n ** 53n + 1n, OFFSET_MAX],
    [OFFSET_MAX, undefined],
    [0, undefined],
  ]);
});

test('GETLK answers the range in the way to the byte, with the last byte of it', () => {
  const found: { start: LockOffset; end: LockOffset | undefined }[] = [
    { start: 5, end: 6 },
    { start: 2 ** 53 - 1, end: 2n ** 53n + 1n },
    { start: 2n ** 62n, end: OFFSET_MAX },
    { start: OFFSET_MAX, end: undefined },
  ];
  const side = kernelSide(
    someHandlers({ getlk: () => ({ type: 'write', pid: 7, ...(found.shift() as (typeof found)[0]) }) }),
  );
  const asked = request({ opcode: OPCODE.GETLK }, 1n, 1n, 0n, OFFSET_MAX, 1, 1, 0, 0);
  const ranges = side
    .batch(asked, asked, asked, asked)
    .map(({ body }) => [body.readBigInt64LE(0), body.readBigInt64LE(8)]);
  assert.deepEqual(ranges, [
    [5n, 5n],
    [2n ** 53n - 1n, 2n ** 53n],
    [2n ** 62n, OFFSET_MAX - 1n],
    [OFFSET_MAX, OFFSET_MAX],
  ]);
});

test('names may be any bytes up to 255; longer ones are ENAMETOOLONG', () => {
  const names: string[] = [];
  const side = kernelSide(
    someHandlers({
      lookup: (_request, _parent, name) => {
        names.push(name);
        return { attr: null, entryValidSec: 0 };
      },
    }),
  );
  const allBytes = Array.from({ length: 255 }, (_, index) => String.fromCharCode(index + 1)).join('');
  const replies = side.batch(
    request({ opcode: OPCODE.LOOKUP }, allBytes),
    request({ opcode: OPCODE.LOOKUP }, 'n'.repeat(256)),
  );
  assert.deepEqual(errnos(replies), [ERRNO.ENOENT, ERRNO.ENAMETOOLONG]);
  assert.deepEqual(names, [allBytes]);
});

test('opcodes that nobody implements are ENOSYS, IOCTL is ENOTTY', () => {
  const side = kernelSide(someHandlers({}));
  const opcodes = [OPCODE.BMAP, OPCODE.POLL, OPCODE.ACCESS, OPCODE.SETUPMAPPING, 7, 54, 4096, 0xffff_ffff];
  const replies = side.batch(
    ...opcodes.map((opcode) => request({ opcode }, 0, 0)),
    request({ opcode: OPCODE.IOCTL }),
  );
  assert.deepEqual(errnos(replies), [...opcodes.map(() => ERRNO.ENOSYS), ENOTTY]);
});

test('xattr values that do not fit are ERANGE, size 0 asks for the size', async () => {
  const side = kernelSide(
    someHandlers({
      getxattr: () => Buffer.from('12345'),
      listxattr: () => Promise.resolve(['user.a', 'user.b\xe9']),
    }),
  );
  const replies = side.batch(
    request({ opcode: OPCODE.GETXATTR, unique: 2n }, 5, 0, 'user.a'),
    request({ opcode: OPCODE.GETXATTR, unique: 4n }, 4, 0, 'user.a'),
    request({ opcode: OPCODE.LISTXATTR, unique: 6n }, 0, 0),
    request({ opcode: OPCODE.LISTXATTR, unique: 8n }, 100, 0),
    request({ opcode: OPCODE.LISTXATTR, unique: 10n }, 3, 0),
  );
  const later = await side.later();
  assert.deepEqual(
    [...replies, ...later].map(({ errno, body }) => [errno, body.toString('latin1')]),
    [
      [0, '12345'],
      [ERRNO.ERANGE, ''],
      [0, '\x0f\0\0\0\0\0\0\0'],
      [0, 'user.a\0user.b\xe9\0'],
      [ERRNO.ERANGE, ''],
    ],
  );
});

test('forget and batch forget are not answered, not even when they fail', () => {
  const forgotten: [number, number][] = [];
  const side = kernelSide(
    someHandlers({
      forget: (nodeid, nlookup) => {
        if (nodeid === 66) throw new Error('bug');
        forgotten.push([nodeid, nlookup]);
      },
    }),
  );
  const replies = side.batch(
    request({ opcode: OPCODE.FORGET, nodeid: 18 }, 2n),
    request({ opcode: OPCODE.FORGET, nodeid: 66 }, 2n),
    request({ opcode: OPCODE.FORGET, nodeid: 18 }),
    request({ opcode: OPCODE.BATCH_FORGET }, 2, 0, 19n, 1n, 20n, 3n),
    request({ opcode: OPCODE.BATCH_FORGET }, 9, 0, 21n, 1n),
    request({ opcode: OPCODE.NOTIFY_REPLY }, 0n),
  );
  assert.deepEqual(replies, []);
  assert.deepEqual(forgotten, [
    [18, 2],
    [19, 1],
    [20, 3],
    [21, 1],
  ]);
});

test('readdir stops when the next entry does not fit and goes on from its cookie', () => {
  const handlers = new MemoryHandlers();
  const side = kernelSide(handlers);
  const made = Array.from({ length: 100 }, (_, index) => `file${index}${'x'.repeat(index)}`);
  for (const name of made) side.batch(request({ opcode: OPCODE.MKNOD }, S_IFREG | 0o644, 0, 0, 0, name));
  for (const plus of [false, true]) {
    const opcode = plus ? OPCODE.READDIRPLUS : OPCODE.READDIR;
    const lookups = (): number[] => [...handlers.nodes.values()].map((node) => node.nlookup);
    const before = lookups();
    const names: string[] = [];
    let cookie = 0n;
    for (;;) {
      const [reply] = side.batch(request({ opcode }, 1n, cookie, 1024, 0, 0n, 0, 0));
      assert.ok(reply !== undefined && reply.errno === 0 && reply.body.length <= 1024);
      if (reply.body.length === 0) break;
      for (let at = 0; at < reply.body.length; ) {
        const dirent = at + (plus ? 128 : 0);
        const nameBytes = reply.body.readUInt32LE(dirent + 16);
        names.push(reply.body.toString('latin1', dirent + 24, dirent + 24 + nameBytes));
        cookie = reply.body.readBigUInt64LE(dirent + 8);
        at = (dirent + 24 + nameBytes + 7) & ~7;
      }
    }
    assert.deepEqual(names, ['.', '..', ...made]);
    const after = lookups();
    assert.deepEqual(
      after.map((count, index) => count - (before[index] ?? 0)),
      after.map((_, index) => (plus && index > 0 ? 1 : 0)),
    );
  }
});

test('INIT asks for what both sides have, never for a write-back cache or a request timeout', () => {
  let told: unknown;
  const side = kernelSide(
    someHandlers({
      init: (negotiated) => {
        told = negotiated;
      },
    }),
  );
  const [reply] = side.batch(
    request({ opcode: OPCODE.INIT }, 7, 45, 131072, 0xffff_ffff, 0xffff_ffff, Buffer.alloc(44)),
  );
  assert.equal(reply?.errno, 0);
  assert.equal(reply?.body.length, 64);
  const { negotiated } = side.dispatcher;
  assert.deepEqual(initFlagNames(negotiated?.flags ?? 0n), [
    'ASYNC_READ',
    'POSIX_LOCKS',
    'ATOMIC_O_TRUNC',
    'BIG_WRITES',
    'DONT_MASK',
    'FLOCK_LOCKS',
    'DO_READDIRPLUS',
    'READDIRPLUS_AUTO',
    'ASYNC_DIO',
    'PARALLEL_DIROPS',
    'POSIX_ACL',
    'MAX_PAGES',
    'CACHE_SYMLINKS',
    'HANDLE_KILLPRIV_V2',
    'SETXATTR_EXT',
    'INIT_EXT',
    'CREATE_SUPP_GROUP',
    'HAS_EXPIRE_ONLY',
    'DIRECT_IO_ALLOW_MMAP',
    'HAS_RESEND',
  ]);
  assert.deepEqual(told, { minor: 45, flags: negotiated?.flags, maxWrite: 1 << 20 });
  assert.equal(reply?.body.readUInt16LE(40), 0, 'request_timeout');
});

test('INIT: an older kernel gets less, a newer minor ours, another major the way out', () => {
  const agree = (
    major: number,
    minor: number,
    flags: number,
  ): [number, Buffer | undefined, bigint | undefined] => {
    const side = kernelSide(someHandlers({}));
    const [reply] = side.batch(request({ opcode: OPCODE.INIT }, major, minor, 131072, flags));
    return [reply?.errno ?? -1, reply?.body, side.dispatcher.negotiated?.flags];
  };
  const [, old, oldFlags] = agree(7, 27, 0x1f_ffff);
  assert.deepEqual([old?.readUInt32LE(4), old?.readUInt32LE(20), old?.readUInt16LE(28)], [27, 131072, 0]);
  assert.equal((oldFlags ?? 0n) & (INIT_FLAG.INIT_EXT | INIT_FLAG.MAX_PAGES), 0n);
  assert.equal(agree(7, 99, 0)[1]?.readUInt32LE(4), 45);
  assert.equal(agree(7, 22, 0)[0], ERRNO.EPROTO);
  assert.equal(agree(6, 40, 0)[0], ERRNO.EPROTO);
  const [errno, offer, none] = agree(8, 0, 0);
  assert.deepEqual([errno, offer?.readUInt32LE(0), offer?.readUInt32LE(4), none], [0, 7, 45, undefined]);
});

test('destroy is told once, whether by DESTROY or because the device is gone', () => {
  let destroyed = 0;
  const side = kernelSide(someHandlers({ destroy: () => void destroyed++ }));
  assert.deepEqual(errnos(side.batch(request({ opcode: OPCODE.DESTROY }))), [0]);
  side.dispatcher.deviceGone();
  assert.equal(destroyed, 1);
});

test('failPending answers all that wait, ends their waits, and ignores what they say later', async () => {
  const reasons: unknown[] = [];
  const waitForAbort = (context: RequestContext): Promise<never> =>
    new Promise((_resolve, reject) => {
      context.signal.addEventListener('abort', () => {
        reasons.push(context.signal.reason);
        reject(new FsError('EINTR'));
      });
    });
  const side = kernelSide(someHandlers({ unlink: waitForAbort, rmdir: waitForAbort }));
  side.batch(
    request({ opcode: OPCODE.UNLINK, unique: 2n }, 'a'),
    request({ opcode: OPCODE.RMDIR, unique: 4n }, 'b'),
  );
  side.dispatcher.failPending('ENOTCONN');
  assert.deepEqual(
    (await side.later()).map(({ unique, errno }) => [unique, errno]),
    [
      [2n, ERRNO.ENOTCONN],
      [4n, ERRNO.ENOTCONN],
    ],
  );
  assert.equal(reasons.length, 2);
  assert.equal(side.dispatcher.pendingCount, 0);
});

test('a request that is sent again while it waits runs once and is answered under its new unique', async () => {
  let calls = 0;
  let answer: () => void = () => undefined;
  const side = kernelSide(
    someHandlers({
      unlink: () => {
        calls++;
        return new Promise<void>((resolve) => (answer = resolve));
      },
    }),
  );
  const resent = 2n | (1n << 63n);
  side.batch(request({ opcode: OPCODE.UNLINK, unique: 2n }, 'a'));
  side.batch(request({ opcode: OPCODE.UNLINK, unique: resent }, 'a'));
  answer();
  assert.deepEqual(
    (await side.later()).map(({ unique, errno }) => [unique, errno]),
    [[resent, 0]],
  );
  assert.equal(calls, 1);
  // Read by a process before us and sent again to us: not known, so it runs.
  side.batch(request({ opcode: OPCODE.UNLINK, unique: 4n | (1n << 63n) }, 'b'));
  assert.equal(calls, 2);
});

test('random bytes in every struct never stop the dispatcher: each request gets at most one answer', async () => {
  await fc.assert(
    fc.asyncProperty(
      fc.array(
        fc.record({
          opcode: fc.oneof(fc.integer({ min: 1, max: 60 }), fc.nat()),
          nodeid: fc.oneof(fc.integer({ min: 1, max: 20 }).map(BigInt), fc.bigInt(0n, 2n ** 64n - 1n)),
          body: fc.uint8Array({ maxLength: 200 }),
          ext: fc.oneof(fc.constant(0), fc.integer({ min: 0, max: 65535 })),
        }),
        { minLength: 1, maxLength: 12 },
      ),
      async (specs) => {
        const side = kernelSide(new MemoryHandlers(), {
          log: Object.assign(() => undefined, { enabled: true }),
        });
        const requests = specs.map(({ opcode, nodeid, body, ext }, index) => {
          const bytes = request({ opcode, nodeid, unique: BigInt(2 * index + 2) }, body);
          bytes.writeUInt16LE(ext, 36);
          return bytes;
        });
        const replies = [...side.batch(...requests), ...(await side.later())];
        const uniques = replies.map(({ unique }) => unique);
        assert.equal(new Set(uniques).size, uniques.length);
        side.dispatcher.failPending('EIO');
        assert.equal(side.dispatcher.pendingCount, 0);
      },
    ),
    { numRuns: 300 },
  );
});

test('random bytes instead of requests are dropped', () => {
  const side = kernelSide(new MemoryHandlers());
  fc.assert(
    fc.property(fc.uint8Array({ maxLength: 400 }), (bytes) => {
      side.dispatcher.batch(Buffer.from(bytes), bytes.length);
      side.dispatcher.takeReplyBytes();
      side.device.messages.length = 0;
    }),
  );
  const good = request({ opcode: OPCODE.GETATTR, unique: 2n }, 0, 0, 0n);
  const bad = request({ opcode: OPCODE.GETATTR, unique: 4n }, 0, 0, 0n);
  bad.writeUInt32LE(5000, 0);
  const replies = side.batch(good, bad);
  assert.deepEqual(
    replies.map(({ unique }) => unique),
    [2n],
  );
});

test('a directory in memory, from MKDIR to the last FORGET', () => {
  const handlers = new MemoryHandlers();
  const side = kernelSide(handlers);
  const [made] = side.batch(request({ opcode: OPCODE.MKDIR, uid: 5, gid: 6 }, 0o777, 0o22, 'dir'));
  const nodeid = made?.body.readBigUInt64LE(0) ?? 0n;
  assert.equal(made?.body.readUInt32LE(40 + 60), S_IFDIR | 0o755);
  assert.deepEqual(
    errnos(
      side.batch(
        request({ opcode: OPCODE.RMDIR }, 'dir'),
        request({ opcode: OPCODE.GETATTR, nodeid }, 0, 0, 0n),
        request({ opcode: OPCODE.FORGET, nodeid }, 1n),
        request({ opcode: OPCODE.GETATTR, nodeid }, 0, 0, 0n),
      ),
    ),
    [0, 0, ERRNO.ESTALE],
  );
  assert.equal(handlers.nodes.size, 1);
});

test('requests that wait keep their bytes from when the mount may be handed over, and begin anew elsewhere', async () => {
  const waiting: { request: RequestContext; done: (entry: EntryOut) => void }[] = [];
  const handlers = someHandlers({
    lookup: (request) =>
      new Promise((resolve) => {
        waiting.push({ request, done: resolve });
      }),
  });
  const side = kernelSide(handlers);
  const patience = new AbortController().signal;
  side.batch(request({ opcode: OPCODE.LOOKUP, unique: 2n }, 'before'));
  const kept = side.dispatcher.keepRequests(patience);
  const later = request({ opcode: OPCODE.LOOKUP, unique: 4n, uid: 7 }, 'later');
  side.batch(later);
  // The one from before has to be answered first.
  waiting[0]?.done(ENTRY);
  await kept;
  const idle = side.dispatcher.idle(patience);
  waiting[1]?.request.parked?.(true);
  await idle;
  const handed = side.dispatcher.requestsToHandOver();
  assert.deepEqual(
    handed.map((bytes) => Buffer.from(bytes)),
    [later],
  );

  const next = kernelSide(handlers);
  assert.ok(side.dispatcher.negotiated === undefined);
  for (const bytes of handed) next.batch(Buffer.from(bytes));
  assert.deepEqual([waiting[2]?.request.uid, next.dispatcher.pendingCount], [7, 1]);
  // This process goes on after all: its own request is still there.
  side.dispatcher.keepNoRequests();
  waiting[1]?.request.parked?.(false);
  waiting[1]?.done(ENTRY);
  await side.dispatcher.drainPending();
  assert.equal(side.dispatcher.pendingCount, 0);
});

test('the wait for requests to become idle ends with the patience', async () => {
  const side = kernelSide(someHandlers({ lookup: () => new Promise(() => undefined) }));
  side.batch(request({ opcode: OPCODE.LOOKUP, unique: 2n }, 'for ever'));
  const patience = new AbortController();
  const kept = side.dispatcher.keepRequests(patience.signal);
  patience.abort(new FsError('ETIMEDOUT'));
  await assert.rejects(kept, { code: 'ETIMEDOUT' });
});
