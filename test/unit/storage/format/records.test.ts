/** On-disk bytes, as docs/ONDISK.md has them. A change here is a change of the format. */

import assert from 'node:assert/strict';
import { test } from 'node:test';
import fc from 'fast-check';
import type { ClientUuid, Fid, Name, TargetUuid, Transno, Xid } from '../../../../src/base/ids.js';
import { decodeBlockMap, emptyBlockMap, encodeBlockMap } from '../../../../src/storage/format/block_map.js';
import {
  accessKey,
  accessNameOf,
  afterPrefix,
  clientKey,
  evictionKey,
  fidKey,
  fidNameKey,
  fidNumberKey,
  KEY,
  replyKey,
  slotOf,
  spaceGroupKey,
  uuidKey,
} from '../../../../src/storage/format/keys.js';
import * as records from '../../../../src/storage/format/records.js';
import {
  decodeDataHeader,
  decodeSuperblock,
  encodeDataHeader,
  encodeSuperblock,
  type SuperblockRecord,
} from '../../../../src/storage/format/superblock.js';
import { tableChecksum } from '../../../fixtures/memory_device.js';

const FID = (2 ** 43 + 258) as Fid;
const hex = (bytes: Buffer): string => bytes.toString('hex');
function filled(bytes: number, fill: (target: Buffer) => void): Buffer {
  const target = Buffer.alloc(bytes, 0xee);
  fill(target);
  return target;
}

test('keys', () => {
  assert.deepEqual(
    [
      fidKey(KEY.inode, FID),
      fidNameKey(KEY.direntByName, FID, 'a\xff' as Name),
      fidNumberKey(KEY.direntByCookie, FID, 7),
      fidNumberKey(KEY.blockMap, FID, 2 ** 33),
      spaceGroupKey(513),
      clientKey('00112233-4455-6677-8899-aabbccddeeff' as ClientUuid),
      replyKey(uuidKey(KEY.reply, '00112233-4455-6677-8899-aabbccddeeff' as ClientUuid), 259),
      evictionKey(63),
      accessKey('backup.1'),
    ].map(hex),
    [
      '100000080000000102',
      '11000008000000010261ff',
      '1200000800000001020000000000000007',
      '1600000800000001020000000200000000',
      '1700000201',
      '1900112233445566778899aabbccddeeff',
      '1b00112233445566778899aabbccddeeff0103',
      '1c3f',
      '1d6261636b75702e31',
    ],
  );
  assert.equal(slotOf(Buffer.from('1b00112233445566778899aabbccddeeff0103', 'hex')), 259);
  assert.equal(accessNameOf(accessKey('backup.1')), 'backup.1');
});

test('keys order as numbers, and all of a prefix come before its end', () => {
  const fid = fc.integer({ min: 1, max: Number.MAX_SAFE_INTEGER });
  fc.assert(
    fc.property(fid, fid, fid, (a, b, number) => {
      assert.equal(
        Math.sign(Buffer.compare(fidKey(KEY.inode, a as Fid), fidKey(KEY.inode, b as Fid))),
        Math.sign(a - b),
      );
      const key = fidNumberKey(KEY.blockMap, a as Fid, number);
      const prefix = fidKey(KEY.blockMap, a as Fid);
      assert.ok(Buffer.compare(prefix, key) < 0 && Buffer.compare(key, afterPrefix(prefix)) < 0);
    }),
  );
});

test('inode', () => {
  const inode = {
    fid: FID,
    mode: 0o100644,
    nlink: 1,
    uid: 1000,
    gid: 1001,
    rdev: 0x801,
    sizeBytes: 2 ** 40 + 5,
    blocks: 16,
    atime: { sec: 1, nsec: 2 },
    mtime: { sec: -1, nsec: 999_999_999 },
    ctime: { sec: 2 ** 33, nsec: 0 },
    btime: { sec: -(2 ** 35) - 3, nsec: 4 },
    noXattrs: undefined,
    parent: 0 as const,
    digest: undefined,
  };
  const bytes = filled(records.INODE_BYTES, (target) => records.encodeInode(inode, target));
  assert.equal(
    hex(bytes),
    '01000000a481000001000000e8030000e9030000010800000500000000010000' +
      '100000000000000000000000000000000100000000000000ffffffffffffffff' +
      '0000000002000000fdfffffff7ffffff02000000ffc99a3b0000000004000000',
  );
  assert.deepEqual(records.decodeInode(FID, bytes), inode);
  const bare = { ...inode, noXattrs: true as const };
  const bareBytes = records.encodedInode(bare);
  assert.deepEqual([hex(bareBytes.subarray(0, 4)), bareBytes.subarray(4)], ['01010000', bytes.subarray(4)]);
  assert.deepEqual(records.decodeInode(FID, bareBytes), bare);
});

test('directory entries', () => {
  const dirent = { name: 'n\xe9' as Name, fid: FID, type: 0o040000, cookie: 2 ** 32 + 1 };
  const byName = filled(records.DIRENT_BY_NAME_BYTES, (target) => records.encodeDirentByName(dirent, target));
  const byCookie = filled(records.DIRENT_BY_COOKIE_HEADER + 2, (target) =>
    records.encodeDirentByCookie(dirent, target),
  );
  assert.deepEqual([byName, byCookie].map(hex), [
    '0104020100000008000001000000' + '01000000',
    '010402010000000800006ee9',
  ]);
  assert.deepEqual(records.decodeDirentByName(dirent.name, byName), dirent);
  assert.deepEqual(records.decodeDirentByCookie(dirent.cookie, byCookie), dirent);
});

test('bytes, inline data, clients, counters', () => {
  const content = Buffer.from('abc');
  const bytes = filled(4, (target) => records.encodeBytes(content, target));
  const inline = filled(11, (target) => records.encodeInline(content, 0x0102_0304, target));
  const client = {
    uuid: '00112233-4455-6677-8899-aabbccddeeff' as ClientUuid,
    name: 'hé',
    softwareVersion: '1.2',
    lastTransno: (2 ** 32 + 2) as Transno,
  };
  const counters = { lastTransno: (2 ** 32 + 2) as Transno, nextObject: 16, nextCookie: 3, inodes: 1 };
  const clientBytes = records.encodeClient(client);
  const counterBytes = filled(records.COUNTERS_BYTES, (target) => records.encodeCounters(counters, target));
  assert.deepEqual([bytes, inline, clientBytes, counterBytes].map(hex), [
    '01616263',
    '0100000004030201616263',
    '0102000000010000000000000000000000030068c3a90300312e32',
    '01000000000000000200000001000000100000000000000003000000000000000100000000000000',
  ]);
  assert.deepEqual(records.decodeBytes(bytes, 'x'), content);
  assert.deepEqual(records.decodeInline(FID, inline), { bytes: content, crc: 0x0102_0304 });
  assert.deepEqual(records.decodeClient(client.uuid, clientBytes), {
    ...client,
    secret: undefined,
    principal: undefined,
  });
  const withSecret = { ...client, secret: 'abc', principal: undefined };
  const secretBytes = records.encodeClient(withSecret);
  assert.equal(hex(secretBytes), `${hex(clientBytes)}0300616263`);
  assert.deepEqual(records.decodeClient(client.uuid, secretBytes), withSecret);
  for (const cut of [1, 2, 4]) {
    assert.throws(() => records.decodeClient(client.uuid, secretBytes.subarray(0, -cut)), { code: 'EIO' });
  }
  assert.deepEqual(records.decodeCounters(counterBytes), counters);
});

test("a client's principal stands behind its secret, and no build before principals takes what is there for a secret", () => {
  const client = {
    uuid: '00112233-4455-6677-8899-aabbccddeeff' as ClientUuid,
    name: 'h',
    softwareVersion: '1',
    lastTransno: 0 as Transno,
  };
  const encoded = (secret: string | undefined, principal: string | undefined): string =>
    hex(records.encodeClient({ ...client, secret, principal }));
  const start = '0100000000000000000000000000000000010068010031';
  assert.deepEqual(
    [
      encoded('abc', 'key:a'),
      encoded('abc', 'plain'),
      // No older build opens a target whose table has the entry.
      encoded(undefined, 'key:a'),
      encoded('', 'certificate:b'),
      // An older build would lock this client out.
      encoded(undefined, 'plain'),
      encoded(undefined, 'local'),
    ],
    [
      `${start}030061626305006b65793a61`,
      `${start}03006162630500706c61696e`,
      `${start}000005006b65793a61`,
      `${start}00000d0063657274696669636174653a62`,
      start,
      start,
    ],
  );
  const decoded = (text: string): readonly [string | undefined, string | undefined] => {
    const { secret, principal } = records.decodeClient(client.uuid, Buffer.from(text, 'hex'));
    return [secret, principal];
  };
  assert.deepEqual(
    [
      decoded(encoded('abc', 'key:a')),
      decoded(encoded(undefined, 'key:a')),
      decoded(`${start}0000`),
      decoded(start),
      decoded(`${encoded('abc', 'key:a')}1122`),
    ],
    [
      ['abc', 'key:a'],
      [undefined, 'key:a'],
      [undefined, undefined],
      [undefined, undefined],
      ['abc', 'key:a'],
    ],
  );
  const bytes = Buffer.from(encoded('abc', 'key:a'), 'hex');
  for (const cut of [1, 5, 6]) {
    assert.throws(() => records.decodeClient(client.uuid, bytes.subarray(0, -cut)), { code: 'EIO' });
  }
  assert.throws(() => decoded(encoded('abc', 'p'.repeat(81))), { code: 'EIO' });
});

test('eviction', () => {
  const eviction = {
    uuid: '00112233-4455-6677-8899-aabbccddeeff' as ClientUuid,
    name: 'hé',
    reason: 'so',
    instance: 3,
    number: 65,
    atMs: 2 ** 40 + 1,
    had: { opens: 2, locks: 4, dirtyBytes: 2 ** 33 },
  };
  const bytes = records.encodeEviction(eviction);
  const away = records.encodeEviction({ ...eviction, had: undefined });
  const begin = '0000030000004100000000000000010000000001000000112233445566778899aabbccddeeff';
  assert.deepEqual([bytes, away].map(hex), [
    `0101${begin}02000000040000000000000002000000030068c3a90200736f`,
    `0100${begin}00000000000000000000000000000000030068c3a90200736f`,
  ]);
  assert.deepEqual(records.decodeEviction('x', bytes), eviction);
  assert.deepEqual(records.decodeEviction('x', away), { ...eviction, had: undefined });
  for (const cut of [1, 3, 6]) {
    assert.throws(() => records.decodeEviction('x', bytes.subarray(0, -cut)), { code: 'EIO' });
  }
});

test('reply', () => {
  const reply = { opcode: 68, xid: 9 as Xid, transno: (2 ** 32 + 7) as Transno, fid: FID, copiedBytes: 3 };
  const bytes = filled(records.REPLY_BYTES, (target) => records.encodeReply(reply, target));
  assert.equal(
    hex(bytes),
    '010044000000000009000000000000000700000001000000020100000008000003000000000000' + '00',
  );
  assert.deepEqual(records.decodeReply('x', bytes), reply);
  assert.throws(() => records.decodeReply('reply 1', bytes.subarray(1)), { code: 'EIO' });
});

test('block map', () => {
  const blockMap = emptyBlockMap();
  blockMap.place.set([100, 101], 0);
  blockMap.crc.set([0xaabbccdd, 1], 0);
  blockMap.place.set([-500, -501, -502], 254 - 3);
  blockMap.place[255] = 2 ** 33;
  blockMap.crc[255] = 2;
  const bytes = encodeBlockMap(blockMap);
  assert.equal(
    hex(bytes),
    '01000300' +
      '000100006400000000000000' +
      'fb020100f401000000000000' +
      'ff0000000000000002000000' +
      'ddccbbaa0100000002000000',
  );
  assert.deepEqual(decodeBlockMap(bytes, 'w'), blockMap);
  assert.throws(() => decodeBlockMap(bytes.subarray(0, 41), 'w'), { code: 'EIO' });
});

test('any block map comes back as it was', () => {
  const place = fc.oneof(
    fc.constant(0),
    fc.integer({ min: 16, max: 60 }),
    fc.integer({ min: -60, max: -16 }),
  );
  fc.assert(
    fc.property(fc.array(place, { minLength: 256, maxLength: 256 }), (places) => {
      const blockMap = emptyBlockMap();
      places.forEach((each, index) => {
        blockMap.place[index] = each;
        if (each > 0) blockMap.crc[index] = index * 3;
      });
      assert.deepEqual(decodeBlockMap(encodeBlockMap(blockMap), 'w'), blockMap);
    }),
  );
});

const SUPERBLOCK: SuperblockRecord = {
  formatVersion: 1,
  featuresIncompat: 0,
  filesystemUuid: '00112233-4455-6677-8899-aabbccddeeff',
  targetUuid: 'ffeeddcc-bbaa-9988-7766-554433221100' as TargetUuid,
  targetIndex: 3,
  label: 'lab',
  softwareVersion: '0.1.0',
  instance: 5,
  clean: true,
  metaSizeBytes: 16 << 20,
  dataSizeBytes: 2 ** 33,
};

test('superblock and data header', () => {
  const bytes = encodeSuperblock(SUPERBLOCK, tableChecksum);
  assert.equal(
    hex(bytes.subarray(0, 119)),
    '484673757065723101000000000000000011223344556677' +
      '8899aabbccddeeffffeeddccbbaa998877665544332211000300000005000000' +
      '0100000000000000000000010000000000000000020000000' +
      '36c61620000000000000000000000000000000000000000000000000000000000' +
      '05302e312e30',
  );
  assert.deepEqual(decodeSuperblock(bytes, tableChecksum, 'dev'), SUPERBLOCK);
  const header = { ...SUPERBLOCK, sizeBytes: 2 ** 33 };
  const block = encodeDataHeader(header, tableChecksum);
  assert.equal(
    hex(block.subarray(0, 56)),
    '48466461746130310100000000000000' +
      '00112233445566778899aabbccddeeffffeeddccbbaa998877665544332211000000000002000000',
  );
  assert.deepEqual(decodeDataHeader(block, tableChecksum, 'dev'), {
    filesystemUuid: SUPERBLOCK.filesystemUuid,
    targetUuid: SUPERBLOCK.targetUuid,
    sizeBytes: 2 ** 33,
  });
});

test('a superblock of another format, with unknown features or damaged is told apart', () => {
  const encoded = (change: Partial<SuperblockRecord>): Buffer =>
    encodeSuperblock({ ...SUPERBLOCK, ...change }, tableChecksum);
  assert.throws(() => decodeSuperblock(encoded({ formatVersion: 9 }), tableChecksum, 'dev'), {
    code: 'EPROTO',
    message: 'dev has format version 9; this software reads 1: use a matching release',
  });
  assert.throws(() => decodeSuperblock(encoded({ featuresIncompat: 24 }), tableChecksum, 'dev'), {
    code: 'EPROTO',
    message: 'dev uses features this software does not know (bits 0x10): use a newer release',
  });
  const bytes = encoded({});
  bytes[60] = 1;
  assert.throws(() => decodeSuperblock(bytes, tableChecksum, 'dev'), {
    code: 'EIO',
    message: 'the superblock on dev is damaged',
  });
});
