import assert from 'node:assert/strict';
import { test } from 'node:test';
import { nativeBinding } from '../../../native/binding.js';
import { nodeChecksum } from '../../../src/runtime/node_checksum.js';

/** RFC 3720, B.4, and the check value of the polynomial. */
const VECTORS: readonly (readonly [string, Buffer, number])[] = [
  ['check value', Buffer.from('123456789'), 0xe3069283],
  ['32 zeros', Buffer.alloc(32), 0x8a9136aa],
  ['32 ones', Buffer.alloc(32, 0xff), 0x62a8ab43],
  ['32 incrementing', Buffer.from(Array.from({ length: 32 }, (_, i) => i)), 0x46dd794e],
  ['32 decrementing', Buffer.from(Array.from({ length: 32 }, (_, i) => 31 - i)), 0x113fdb5c],
];

/** One bit at a time: the definition. */
function reference(data: Uint8Array): number {
  let crc = 0xffffffff;
  for (const byte of data) {
    crc ^= byte;
    for (let bit = 0; bit < 8; bit += 1) crc = (crc >>> 1) ^ ((crc & 1) === 1 ? 0x82f63b78 : 0);
  }
  return (crc ^ 0xffffffff) >>> 0;
}

/** Bytes that repeat only after 2^31 (a linear congruential generator). */
function noise(length: number): Buffer {
  const bytes = Buffer.alloc(length);
  let state = 1;
  for (let i = 0; i < length; i += 1) {
    state = (Math.imul(state, 1103515245) + 12345) & 0x7fffffff;
    bytes[i] = state >>> 16;
  }
  return bytes;
}

test('CRC-32C of the published vectors', () => {
  for (const [name, data, expected] of VECTORS) {
    assert.deepEqual([...nodeChecksum.crc32cBlocks(data, 4096)], [expected], name);
    assert.deepEqual([...nativeBinding().crc32cBlocksPortable(data, 4096)], [expected], name);
  }
});

test('every length around the lanes of the fast path agrees with the definition, at any alignment', () => {
  const data = noise(3 * 4080 + 64);
  for (const length of [
    0, 1, 7, 8, 9, 1359, 1360, 4079, 4080, 4081, 4095, 4096, 4097, 8159, 8160, 8161, 12287,
  ]) {
    for (const start of [0, 1, 7]) {
      const part = data.subarray(start, start + length);
      const expected = length === 0 ? [] : [reference(part)];
      assert.deepEqual(
        [...nodeChecksum.crc32cBlocks(part, 1 << 20)],
        expected,
        `${length} bytes from ${start}`,
      );
      assert.deepEqual([...nativeBinding().crc32cBlocksPortable(part, 1 << 20)], expected);
    }
  }
});

test('each block has its own sum, and the last may be short', () => {
  const data = noise(4096 * 2 + 100);
  assert.deepEqual(
    [...nodeChecksum.crc32cBlocks(data, 4096)],
    [data.subarray(0, 4096), data.subarray(4096, 8192), data.subarray(8192)].map(reference),
  );
});

test('a block size of zero and data that is none are refused', () => {
  assert.throws(() => nodeChecksum.crc32cBlocks(Buffer.alloc(1), 0), TypeError);
  assert.throws(() => nodeChecksum.crc32cBlocks('abc' as unknown as Uint8Array, 4096), TypeError);
});
