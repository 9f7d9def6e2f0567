/** Bytes of an entry of the access table, as docs/ONDISK.md has them, and what is no entry. */

import assert from 'node:assert/strict';
import { test } from 'node:test';
import fc from 'fast-check';
import { FsError } from '../../../../src/base/errno.js';
import type { AccessRecord } from '../../../../src/storage/api.js';
import { decodeAccess, encodeAccess } from '../../../../src/storage/format/access_record.js';
import { accessEntry, accessKeyOf } from '../../../fixtures/access_entries.js';

const FULL: AccessRecord = {
  name: 'backup',
  kind: 'key',
  keys: [
    { id: '00112233445566ff', secret: Buffer.alloc(32, 0xaa), createdMs: 2 ** 40 + 1, untilMs: undefined },
    { id: 'ffeeddccbbaa9988', secret: Buffer.alloc(32, 0xbb), createdMs: 5, untilMs: 2 ** 33 },
  ],
  readOnly: true,
  squashRoot: false,
  admin: true,
  from: ['10.0.0.0/8', 'fd00::/16'],
  createdMs: 2 ** 32 + 7,
  limits: { clients: 3, waitingBytes: 2 ** 34 },
};
const FULL_HEX =
  '01010502' +
  '0700000001000000' +
  '00112233445566ff' +
  'aa'.repeat(32) +
  '0100000000010000' +
  '0000000000000000' +
  'ffeeddccbbaa9988' +
  'bb'.repeat(32) +
  '0500000000000000' +
  '0000000002000000' +
  '02000a31302e302e302e302f380966643030' +
  '3a3a2f3136' +
  '0200' +
  '010300000000000000' +
  '050000000004000000';
const CERTIFICATE: AccessRecord = {
  ...accessEntry('c', { kind: 'certificate', keys: [], createdMs: 1 }),
};

test('access entry', () => {
  assert.deepEqual(
    [FULL, CERTIFICATE].map((record) => encodeAccess(record).toString('hex')),
    [FULL_HEX, '01020200010000000000000000000000'],
  );
  for (const record of [FULL, CERTIFICATE]) {
    assert.deepEqual(decodeAccess(record.name, encodeAccess(record)), record);
  }
});

test('what a later release has added comes back as it was: limits of unknown numbers, and bytes behind the limits', () => {
  const bytes = Buffer.concat([
    Buffer.from('0102020001000000000000000000', 'hex'),
    Buffer.from(
      '0300' + '020900000000000000' + '060700000000000000' + 'ff0800000000000000' + '01020304',
      'hex',
    ),
  ]);
  const record = decodeAccess('c', bytes);
  assert.deepEqual(record, {
    ...CERTIFICATE,
    limits: {
      locks: 9,
      unknown: [
        { what: 6, value: 7 },
        { what: 255, value: 8 },
      ],
    },
    later: Buffer.from('01020304', 'hex'),
  });
  assert.deepEqual(encodeAccess(record), bytes);
  const changed = encodeAccess({ ...record, limits: { ...record.limits, opens: 1 } });
  assert.deepEqual(decodeAccess('c', changed).limits, { ...record.limits, opens: 1 });
});

test('a value that is cut short, of another version, kind or flag, or with numbers too large is damaged', () => {
  const bytes = Buffer.from(FULL_HEX, 'hex');
  const whole = { code: 'EIO', message: 'damaged record on the meta device: access entry "backup"' };
  for (let length = 0; length < bytes.length; length++) {
    assert.throws(() => decodeAccess('backup', bytes.subarray(0, length)), whole, `${length} bytes`);
  }
  const cases: readonly (readonly [at: number, byte: number])[] = [
    [0, 2],
    [1, 0],
    [1, 2],
    [1, 3],
    [2, 8],
    [3, 0],
    [3, 1],
    [3, 255],
    [10, 0x20],
    // A second limit of the number 1.
    [bytes.length - 9, 1],
    [bytes.length - 9, 0],
    [bytes.length - 2, 0xff],
  ];
  for (const [at, byte] of cases) {
    const changed = Buffer.from(bytes);
    changed[at] = byte;
    assert.throws(() => decodeAccess('backup', changed), whole, `byte ${at} is ${byte}`);
  }
  assert.throws(() => decodeAccess('no name', bytes), { code: 'EIO' });
  const twice = Buffer.from(bytes);
  twice.copy(twice, 12 + 56, 12, 12 + 8);
  assert.throws(() => decodeAccess('backup', twice), whole);
});

test('whatever bytes are there: an entry that is written back as it was, or damage', () => {
  const near = fc
    .array(fc.tuple(fc.nat(FULL_HEX.length / 2 - 1), fc.nat(255)), { maxLength: 4 })
    .map((changes) => {
      const bytes = Buffer.from(FULL_HEX, 'hex');
      for (const [at, byte] of changes) bytes[at] = byte;
      return bytes;
    });
  const any = fc.uint8Array({ maxLength: 300 }).map((bytes) => Buffer.from([1, ...bytes]));
  fc.assert(
    fc.property(fc.oneof(near, any), (bytes) => {
      try {
        assert.deepEqual(encodeAccess(decodeAccess('backup', bytes)), bytes);
      } catch (thrown) {
        assert.ok(thrown instanceof FsError && thrown.code === 'EIO', String(thrown));
      }
    }),
  );
});

test('there is no entry without a name, with keys or networks that are none, or too large for a page', () => {
  const nine = Array.from({ length: 9 }, (_, index) => accessKeyOf(index));
  const cases: readonly (readonly [Partial<AccessRecord>, RegExp])[] = [
    [{ name: '' }, /has a name that no entry may have/],
    [{ name: '.hidden' }, /has a name/],
    [{ name: 'a/b' }, /has a name/],
    [{ name: 'n'.repeat(65) }, /has a name/],
    [{ keys: [] }, /has 0 keys/],
    [{ keys: nine }, /has 9 keys/],
    [{ kind: 'certificate' }, /has 1 keys/],
    [{ keys: [accessKeyOf(1), accessKeyOf(1)] }, /has a key twice/],
    [{ keys: [accessKeyOf(1, { id: 'FFEEDDCCBBAA9988' })] }, /has a key that can be none/],
    [{ keys: [accessKeyOf(1, { secret: Buffer.alloc(31) })] }, /has a key that can be none/],
    // 0 in the record is "without limit".
    [{ keys: [accessKeyOf(1, { untilMs: 0 })] }, /has a key that can be none/],
    [{ keys: [accessKeyOf(1, { createdMs: 0.5 })] }, /has a key that can be none/],
    [{ from: ['10.0.0.0'] }, /has the network "10.0.0.0"/],
    [{ from: Array.from({ length: 65 }, () => '10.0.0.0/8') }, /has 65 networks/],
    [{ createdMs: -1 }, /was made at no time/],
    [{ limits: { clients: 2 ** 53 } }, /has the limit 9007199254740992/],
    [{ limits: { clients: 1, unknown: [{ what: 1, value: 1 }] } }, /has a limit of the number 1/],
    [{ limits: { unknown: [{ what: 256, value: 1 }] } }, /has a limit of the number 256/],
    [{ later: Buffer.alloc(4000) }, /is too large/],
  ];
  for (const [change, message] of cases) {
    assert.throws(() => encodeAccess(accessEntry('e', change)), { code: 'EINVAL', message });
  }
  const keys = nine.slice(1);
  const from = Array.from({ length: 64 }, () => `${'f'.repeat(45)}/128`);
  const largest = accessEntry('n'.repeat(64), { keys, from });
  assert.deepEqual(decodeAccess(largest.name, encodeAccess(largest)), largest);
});
