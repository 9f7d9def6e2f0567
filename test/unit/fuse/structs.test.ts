/**
 * Golden bytes: every struct as a C compiler lays it out (test/fixtures/golden/fuse_structs.c), decoded from requests
 * and encoded into replies.
 */

import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'node:test';
import { type Attr, S_IFDIR, S_IFREG } from '../../../src/base/attr.js';
import type { Fid } from '../../../src/base/ids.js';
import { FOPEN, OPCODE, SIZE } from '../../../src/fuse/constants.js';
import type { EntryOut, FuseHandlers } from '../../../src/fuse/handlers.js';
import {
  encodeDelete,
  encodeIncEpoch,
  encodeInvalEntry,
  encodeInvalInode,
  encodeResend,
} from '../../../src/fuse/notify.js';
import { kernelSide, request } from '../../fixtures/fuse_kernel_side.js';

const GOLDEN = JSON.parse(
  readFileSync(join(process.cwd(), 'test/fixtures/golden/fuse_structs.json'), 'utf8'),
) as Record<string, string>;
const UNIQUE = 0x1122334455668n;
const FID = 0x80000000012 as Fid;

const ATTR: Attr = {
  fid: FID,
  mode: 0o100644,
  nlink: 2,
  uid: 1000,
  gid: 100,
  rdev: 0x12345,
  sizeBytes: 0x123456789a,
  blocks: 77,
  atime: { sec: 1700000001, nsec: 11 },
  mtime: { sec: 1700000002, nsec: 22 },
  ctime: { sec: 1700000003, nsec: 33 },
  btime: { sec: -1, nsec: 44 },
};
const ENTRY: EntryOut = { attr: ATTR, generation: 5, entryValidSec: 60, attrValidSec: 1.5 };

function golden(name: string): Buffer {
  const hex = GOLDEN[name];
  assert.ok(hex !== undefined, `no golden bytes for ${name}`);
  return Buffer.from(hex, 'hex');
}

const BYTES_FOR: Record<string, Buffer | undefined> = {
  readlink: Buffer.from('x'),
  getxattr: Buffer.from('x'),
};

/** The one call that a request led to, arguments as plain values, views copied. */
function decoded(name: string, setup: Buffer[] = []): unknown[] {
  const calls: unknown[][] = [];
  const handlers = new Proxy({} as FuseHandlers, {
    get: (_target, method) => {
      if (method === 'init' || method === 'destroy') return undefined;
      return (...args: unknown[]): unknown => {
        calls.push([method, ...args.map(plain)]);
        return method === 'readdir' ? undefined : (BYTES_FOR[String(method)] ?? {});
      };
    },
  });
  const side = kernelSide(handlers, { log: Object.assign(() => undefined, { enabled: false }) });
  for (const bytes of setup) side.batch(bytes);
  side.batch(golden(name));
  return calls.length === 1 ? (calls[0] ?? []) : calls;
}

function plain(value: unknown): unknown {
  if (typeof value === 'function') return 'function';
  if (value instanceof Uint8Array) return Buffer.from(value).toString('latin1');
  if (typeof value !== 'object' || value === null) return value;
  if ('signal' in value && 'opcode' in value && 'uid' in value && 'gid' in value && 'pid' in value) {
    return [value.uid, value.gid, value.pid];
  }
  return Object.fromEntries(
    Object.entries(value)
      .filter(([, field]) => field !== undefined)
      .map(([key, field]) => [key, plain(field)]),
  );
}

const WHO = [1000, 100, 4321];
const REQUESTS: [golden: string, call: unknown[]][] = [
  ['lookup', ['lookup', WHO, 1, 'h\xc3\xa9llo']],
  ['forget', ['forget', 18, 3]],
  [
    'batch_forget',
    [
      ['forget', 18, 3],
      ['forget', FID, 1],
    ],
  ],
  ['getattr', ['getattr', WHO, 18, undefined]],
  ['getattr_fh', ['getattr', WHO, 18, 99]],
  ['statx', ['getattr', WHO, 18, 99]],
  [
    'setattr',
    [
      'setattr',
      WHO,
      18,
      {
        fh: 99,
        sizeBytes: 0x123456789a,
        mode: 0o100600,
        uid: 1,
        gid: 2,
        atime: { sec: -5, nsec: 11 },
        mtime: { sec: 1700000002, nsec: 22 },
        ctime: { sec: 1700000003, nsec: 33 },
        killSuidgid: true,
      },
    ],
  ],
  ['setattr_now', ['setattr', WHO, 18, { atime: 'now', mtime: 'now', killSuidgid: false }]],
  ['readlink', ['readlink', WHO, 18]],
  ['symlink', ['symlink', WHO, 1, 'name', 'to/where']],
  ['mknod', ['mknod', WHO, 1, 'fifo', { mode: 0o10644, rdev: 0x12345, umask: 0o22 }]],
  ['mkdir', ['mkdir', WHO, 1, 'dir', { mode: 0o755, umask: 0o22 }]],
  ['mkdir_groups', ['mkdir', WHO, 1, 'dir', { mode: 0o755, umask: 0o22 }]],
  ['unlink', ['unlink', WHO, 1, 'gone']],
  ['rmdir', ['rmdir', WHO, 1, 'gone']],
  ['rename', ['rename', WHO, 1, 'old', 18, 'new', 0]],
  ['rename2', ['rename', WHO, 1, 'old', 18, 'new', 2]],
  ['link', ['link', WHO, 18, 1, 'second']],
  ['open', ['open', WHO, 18, 0o1002, true]],
  ['create', ['create', WHO, 1, 'new', { flags: 2, mode: 0o100666, umask: 0o22, killSuidgid: false }]],
  ['tmpfile', ['tmpfile', WHO, 1, { flags: 2, mode: 0o100600, umask: 0o22, killSuidgid: false }]],
  ['read', ['read', WHO, 18, { fh: 99, offset: 0x123456000, sizeBytes: 8, flags: 0o100000, direct: true }]],
  [
    'write',
    [
      'write',
      WHO,
      18,
      { fh: 99, offset: 0x123456000, data: 'hello', flags: 0o100002, writeback: true, killSuidgid: true },
    ],
  ],
  ['flush', ['flush', WHO, 18, 99, 'fedcba9876543210']],
  ['release', ['release', WHO, 18, { fh: 99, flags: 2, owner: '0000000000000001', flockUnlock: true }]],
  ['fsync', ['fsync', WHO, 18, 99, true]],
  ['opendir', ['opendir', WHO, 1, 0o200000]],
  ['readdir', ['readdir', WHO, 1, 7, 3, false, 'function']],
  ['readdirplus', ['readdir', WHO, 1, 7, 0, true, 'function']],
  ['releasedir', ['releasedir', WHO, 1, 7]],
  ['fsyncdir', ['fsyncdir', WHO, 1, 7, false]],
  ['statfs', ['statfs', WHO, 1]],
  ['getxattr', ['getxattr', WHO, 18, 'user.a']],
  ['setxattr', ['setxattr', WHO, 18, 'user.a', 'val', 1, true]],
  ['listxattr', ['listxattr', WHO, 18]],
  ['removexattr', ['removexattr', WHO, 18, 'user.a']],
  [
    'getlk',
    [
      'getlk',
      WHO,
      18,
      {
        fh: 99,
        owner: 'fedcba9876543210',
        type: 'write',
        start: 100,
        end: 200,
        pid: 55,
        flock: false,
        wait: false,
      },
    ],
  ],
  [
    'setlk',
    [
      'setlk',
      WHO,
      18,
      { fh: 99, owner: '0000000000000001', type: 'read', start: 100, pid: 55, flock: false, wait: false },
    ],
  ],
  [
    'setlkw_flock',
    [
      'setlk',
      WHO,
      18,
      { fh: 99, owner: '0000000000000001', type: 'unlock', start: 0, pid: 55, flock: true, wait: true },
    ],
  ],
  ['fallocate', ['fallocate', WHO, 18, 99, 3, 4096, 8192]],
  ['lseek_hole', ['lseek', WHO, 18, 99, 4096, 'hole']],
  [
    'copy_file_range',
    ['copyFileRange', WHO, { nodeid: 18, fh: 99, offset: 1 }, { nodeid: 19, fh: 98, offset: 2 }, 3],
  ],
  [
    'copy_file_range_64',
    [
      'copyFileRange',
      WHO,
      { nodeid: 18, fh: 99, offset: 1 },
      { nodeid: 19, fh: 98, offset: 2 },
      Number.MAX_SAFE_INTEGER,
    ],
  ],
];

for (const [name, call] of REQUESTS) {
  test(`${name} is decoded from the kernel's bytes`, () => {
    assert.deepEqual(decoded(name), call);
  });
}

test('setxattr is decoded in its short form when SETXATTR_EXT was not agreed', () => {
  assert.deepEqual(decoded('setxattr_compat', [request({ opcode: OPCODE.INIT }, 7, 31, 131072, 0x3ff)]), [
    'setxattr',
    WHO,
    18,
    'user.a',
    'val',
    1,
    false,
  ]);
});

const REPLIES: [golden: string, request: string, result: Partial<Record<keyof FuseHandlers, unknown>>][] = [
  ['entry_out', 'lookup', { lookup: ENTRY }],
  ['entry_out', 'mkdir', { mkdir: ENTRY }],
  ['entry_out', 'mknod', { mknod: ENTRY }],
  ['entry_out', 'symlink', { symlink: ENTRY }],
  ['entry_out', 'link', { link: ENTRY }],
  ['negative_out', 'lookup', { lookup: { attr: null, entryValidSec: 60 } }],
  ['error_out', 'lookup', { lookup: { attr: null, entryValidSec: 0 } }],
  ['attr_out', 'getattr', { getattr: { attr: ATTR, attrValidSec: 1.5 } }],
  ['attr_out', 'setattr', { setattr: { attr: ATTR, attrValidSec: 1.5 } }],
  ['statx_out', 'statx', { getattr: { attr: ATTR, attrValidSec: 1.5 } }],
  ['open_out', 'open', { open: { fh: 99, openFlags: FOPEN.KEEP_CACHE | FOPEN.NOFLUSH } }],
  ['open_out', 'opendir', { opendir: { fh: 99, openFlags: FOPEN.KEEP_CACHE | FOPEN.NOFLUSH } }],
  ['create_out', 'create', { create: { ...ENTRY, fh: 99, openFlags: FOPEN.KEEP_CACHE } }],
  ['create_out', 'tmpfile', { tmpfile: { ...ENTRY, fh: 99, openFlags: FOPEN.KEEP_CACHE } }],
  ['write_out', 'write', { write: 5 }],
  ['write_out', 'copy_file_range', { copyFileRange: 5 }],
  ['copy_file_range_out', 'copy_file_range_64', { copyFileRange: 0x123456789a }],
  ['lseek_out', 'lseek_hole', { lseek: 0x123456789a }],
  [
    'statfs_out',
    'statfs',
    {
      statfs: {
        blockBytes: 4096,
        blocks: 1000,
        blocksFree: 900,
        blocksAvailable: 800,
        inodes: 70,
        inodesFree: 60,
        nameMax: 255,
      },
    },
  ],
  ['getxattr_out', 'getxattr_size', { getxattr: Buffer.from('abc') }],
  ['lk_out', 'getlk', { getlk: { type: 'write', start: 100, end: 200, pid: 55 } }],
  ['lk_out_eof', 'getlk', { getlk: { type: 'read', start: 100, end: undefined, pid: 55 } }],
  ...(
    [
      ['unlink', 'unlink'],
      ['rmdir', 'rmdir'],
      ['rename', 'rename'],
      ['rename2', 'rename'],
      ['flush', 'flush'],
      ['release', 'release'],
      ['releasedir', 'releasedir'],
      ['fsync', 'fsync'],
      ['fsyncdir', 'fsyncdir'],
      ['setxattr', 'setxattr'],
      ['removexattr', 'removexattr'],
      ['setlk', 'setlk'],
      ['setlkw_flock', 'setlk'],
      ['fallocate', 'fallocate'],
    ] as const
  ).map(([name, method]): (typeof REPLIES)[number] => ['empty_out', name, { [method]: undefined }]),
  ['empty_out', 'syncfs', {}],
  ['empty_out', 'destroy', {}],
  ['init_out', 'init', {}],
  ['init_out_7_34', 'init_7_34', {}],
];

for (const [expected, name, results] of REPLIES) {
  test(`${name} is answered with the bytes of ${expected}, at once and later`, async () => {
    for (const asynchronous of [false, true]) {
      const handlers = Object.fromEntries(
        Object.entries(results).map(([method, result]) => [
          method,
          () => (asynchronous ? Promise.resolve(result) : result),
        ]),
      );
      const side = kernelSide(handlers as unknown as FuseHandlers);
      side.dispatcher.batch(golden(name), golden(name).length);
      side.device.takeSlab(side.dispatcher.takeReplyBytes());
      await new Promise<void>((resolve) => setImmediate(resolve));
      const unique = golden(name).subarray(8, 16);
      const reply = Buffer.concat(side.device.messages);
      assert.deepEqual(reply.subarray(8, 16), unique);
      assert.equal(reply.toString('hex'), golden(expected).toString('hex'));
      assert.equal(side.dispatcher.pendingCount, 0);
    }
  });
}

test('readdir and readdirplus fill a reply as the kernel walks it; dots carry no lookup', () => {
  const handlers: Pick<FuseHandlers, 'readdir'> = {
    readdir(_request, _nodeid, _fh, _offset, plus, push) {
      assert.ok(push({ name: '.', ino: 1, type: S_IFDIR, cookie: 1, entry: plus ? ENTRY : undefined }));
      assert.ok(
        push({ name: 'nine.byte', ino: FID, type: S_IFREG, cookie: 3, entry: plus ? ENTRY : undefined }),
      );
    },
  };
  const side = kernelSide(handlers as FuseHandlers);
  for (const [name, expected] of [
    ['readdir', 'readdir_out'],
    ['readdirplus', 'readdirplus_out'],
  ] as const) {
    side.dispatcher.batch(golden(name), golden(name).length);
    side.device.takeSlab(side.dispatcher.takeReplyBytes());
    assert.equal(side.device.messages.splice(0)[0]?.toString('hex'), golden(expected).toString('hex'));
  }
});

test('notifications have the bytes that the kernel expects', () => {
  const encoded: [string, Buffer][] = [
    ['notify_inval_attr', encodeInvalInode(18, -1, 0)],
    ['notify_inval_data', encodeInvalInode(18, 4096, 8192)],
    ['notify_inval_entry', encodeInvalEntry(1, 'gone', true)],
    ['notify_delete', encodeDelete(1, 18, 'gone')],
    ['notify_resend', encodeResend()],
    ['notify_inc_epoch', encodeIncEpoch()],
  ];
  for (const [name, bytes] of encoded)
    assert.equal(bytes.toString('hex'), golden(name).toString('hex'), name);
});

test('the size table agrees with the compiler', () => {
  const sizes: [number, string, number][] = [
    [SIZE.ENTRY_OUT, 'entry_out', SIZE.OUT_HEADER],
    [SIZE.ATTR_OUT, 'attr_out', SIZE.OUT_HEADER],
    [SIZE.OPEN_OUT, 'open_out', SIZE.OUT_HEADER],
    [SIZE.WRITE_OUT, 'write_out', SIZE.OUT_HEADER],
    [SIZE.STATFS_OUT, 'statfs_out', SIZE.OUT_HEADER],
    [SIZE.GETXATTR_OUT, 'getxattr_out', SIZE.OUT_HEADER],
    [SIZE.LK_OUT, 'lk_out', SIZE.OUT_HEADER],
    [SIZE.LSEEK_OUT, 'lseek_out', SIZE.OUT_HEADER],
    [SIZE.STATX_OUT, 'statx_out', SIZE.OUT_HEADER],
    [SIZE.INIT_OUT, 'init_out', SIZE.OUT_HEADER],
    [SIZE.FORGET_IN, 'forget', SIZE.IN_HEADER],
    [SIZE.BATCH_FORGET_IN + 2 * SIZE.FORGET_ONE, 'batch_forget', SIZE.IN_HEADER],
    [SIZE.GETATTR_IN, 'getattr', SIZE.IN_HEADER],
    [SIZE.SETATTR_IN, 'setattr', SIZE.IN_HEADER],
    [SIZE.MKNOD_IN + 5, 'mknod', SIZE.IN_HEADER],
    [SIZE.MKDIR_IN + 4, 'mkdir', SIZE.IN_HEADER],
    [SIZE.RENAME_IN + 8, 'rename', SIZE.IN_HEADER],
    [SIZE.RENAME2_IN + 8, 'rename2', SIZE.IN_HEADER],
    [SIZE.LINK_IN + 7, 'link', SIZE.IN_HEADER],
    [SIZE.OPEN_IN, 'open', SIZE.IN_HEADER],
    [SIZE.CREATE_IN + 4, 'create', SIZE.IN_HEADER],
    [SIZE.READ_IN, 'read', SIZE.IN_HEADER],
    [SIZE.WRITE_IN + 5, 'write', SIZE.IN_HEADER],
    [SIZE.RELEASE_IN, 'release', SIZE.IN_HEADER],
    [SIZE.FLUSH_IN, 'flush', SIZE.IN_HEADER],
    [SIZE.FSYNC_IN, 'fsync', SIZE.IN_HEADER],
    [SIZE.SETXATTR_IN + 10, 'setxattr', SIZE.IN_HEADER],
    [SIZE.SETXATTR_IN_COMPAT + 10, 'setxattr_compat', SIZE.IN_HEADER],
    [SIZE.GETXATTR_IN + 7, 'getxattr', SIZE.IN_HEADER],
    [SIZE.LK_IN, 'getlk', SIZE.IN_HEADER],
    [SIZE.INTERRUPT_IN, 'interrupt', SIZE.IN_HEADER],
    [SIZE.FALLOCATE_IN, 'fallocate', SIZE.IN_HEADER],
    [SIZE.LSEEK_IN, 'lseek_hole', SIZE.IN_HEADER],
    [SIZE.COPY_FILE_RANGE_IN, 'copy_file_range', SIZE.IN_HEADER],
    [SIZE.STATX_IN, 'statx', SIZE.IN_HEADER],
    [SIZE.INIT_IN, 'init', SIZE.IN_HEADER],
    [SIZE.INIT_IN_COMPAT, 'init_7_34', SIZE.IN_HEADER],
    [SIZE.NOTIFY_INVAL_INODE, 'notify_inval_attr', SIZE.OUT_HEADER],
    [SIZE.NOTIFY_INVAL_ENTRY + 5, 'notify_inval_entry', SIZE.OUT_HEADER],
    [SIZE.NOTIFY_DELETE + 5, 'notify_delete', SIZE.OUT_HEADER],
  ];
  for (const [size, name, header] of sizes) assert.equal(size, golden(name).length - header, name);
  assert.equal(SIZE.ENTRY_OUT, 40 + SIZE.ATTR);
  assert.equal(SIZE.DIRENTPLUS, SIZE.ENTRY_OUT + SIZE.DIRENT);
});

test('UNIQUE is what the golden requests carry', () => {
  assert.equal(golden('lookup').readBigUInt64LE(8), UNIQUE);
});
