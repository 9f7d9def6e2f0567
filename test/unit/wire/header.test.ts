import assert from 'node:assert/strict';
import { test } from 'node:test';
import fc from 'fast-check';
import { FsError } from '../../../src/base/errno.js';
import type { Transno, Xid } from '../../../src/base/ids.js';
import {
  BODY_MAX,
  BULK_MAX,
  decodeHeader,
  encodeHeader,
  FLAG_RESENT,
  HEADER_SIZE,
  type Header,
  KIND,
} from '../../../src/wire/header.js';
import { negotiate, ownAbilities } from '../../../src/wire/negotiate.js';

const header: Header = {
  version: 1,
  kind: KIND.request,
  opcode: 0x0140,
  flags: FLAG_RESENT,
  errno: 0,
  xid: 0x1_0000_0002 as Xid,
  ackXidOrCommitted: 3,
  transno: (2 ** 53 - 1) as Transno,
  connCount: 9,
  bodyLength: 0x1234,
  bulkLength: BULK_MAX,
};

test('the header has the bytes that other versions know (golden)', () => {
  const golden = [
    '48465331', // magic 'HFS1'
    '01', // version
    '01', // kind
    '4001', // opcode
    '02000000', // flags
    '00000000', // errno
    '0200000001000000', // xid
    '0300000000000000', // ackXid
    'ffffffffffff1f00', // transno
    '09000000', // connCount
    '34120000', // body
    '00004000', // bulk
    '00000000', // reserved
  ].join('');
  assert.equal(encodeHeader(header).toString('hex'), golden);
  assert.deepEqual(decodeHeader(Buffer.from(golden, 'hex')), header);
  assert.equal(HEADER_SIZE, golden.length / 2);
});

test('any header survives its way over the wire, at any offset', () => {
  const u32 = fc.nat(0xffff_ffff);
  const u64 = fc.maxSafeNat();
  fc.assert(
    fc.property(
      fc.record({
        version: fc.nat(255),
        kind: fc.constantFrom(1, 2, 3),
        opcode: fc.nat(0xffff),
        flags: u32,
        errno: u32,
        xid: u64,
        ackXidOrCommitted: u64,
        transno: u64,
        connCount: u32,
        bodyLength: fc.nat(BODY_MAX),
        bulkLength: fc.nat(BULK_MAX),
      }),
      fc.nat(9),
      (value, offset) => {
        const bytes = Buffer.concat([Buffer.alloc(offset), encodeHeader(value as unknown as Header)]);
        assert.deepEqual(decodeHeader(bytes, offset), { ...value });
      },
    ),
  );
});

test('a header that is none is EPROTO, with the reason', () => {
  const broken = (change: (bytes: Buffer) => void): string => {
    const bytes = encodeHeader(header);
    change(bytes);
    try {
      decodeHeader(bytes);
      return 'accepted';
    } catch (error) {
      return error instanceof FsError ? `${error.code} ${error.message}` : String(error);
    }
  };
  assert.deepEqual(
    [
      broken((bytes) => bytes.write('GET / HTTP/1.1\r\n', 'latin1')),
      broken((bytes) => bytes.writeUInt8(0, 5)),
      broken((bytes) => bytes.writeUInt8(4, 5)),
      broken((bytes) => bytes.writeUInt32LE(BODY_MAX + 1, 44)),
      broken((bytes) => bytes.writeUInt32LE(0xffff_ffff, 48)),
      broken((bytes) => bytes.writeUInt32LE(1, 52)),
      broken((bytes) => bytes.writeUInt32LE(0x20_0000, 20)),
      broken((bytes) => bytes.writeUInt32LE(0xffff_ffff, 36)),
    ],
    [
      'EPROTO not a Holdfast frame (magic 0x20544547)',
      'EPROTO unknown frame kind 0',
      'EPROTO unknown frame kind 4',
      `EPROTO body of ${BODY_MAX + 1} bytes is over ${BODY_MAX}`,
      `EPROTO bulk of 4294967295 bytes is over ${BULK_MAX}`,
      'EPROTO reserved header field in use',
      'EPROTO xid is 2^53 or more',
      'EPROTO transno is 2^53 or more',
    ],
  );
});

test('random headers are decoded or EPROTO', () => {
  fc.assert(
    fc.property(
      fc.uint8Array({ minLength: HEADER_SIZE, maxLength: HEADER_SIZE }),
      fc.boolean(),
      (bytes, magic) => {
        const buffer = Buffer.from(bytes);
        if (magic) buffer.write('HFS1', 'latin1');
        try {
          const { bodyLength, bulkLength } = decodeHeader(buffer);
          assert.ok(bodyLength <= BODY_MAX && bulkLength <= BULK_MAX);
        } catch (error) {
          assert.ok(error instanceof FsError && error.code === 'EPROTO', String(error));
        }
      },
    ),
    { numRuns: 2000 },
  );
});

test('negotiation takes the highest protocol and the features that both sides have', () => {
  const side = (protocolMin: number, protocolMax: number, features: number) => ({
    protocolMin,
    protocolMax,
    features,
    softwareVersion: '1.0.0',
  });
  assert.deepEqual(
    [
      negotiate(side(1, 3, 0b111), side(2, 5, 0b1011)),
      negotiate(side(4, 9, 0), side(2, 5, 1)),
      negotiate(side(2, 2, 0x8000_0001), side(1, 2, 0xffff_ffff)),
    ],
    [
      { agreed: true, protocol: 3, features: 0b011 },
      { agreed: true, protocol: 5, features: 0 },
      { agreed: true, protocol: 2, features: 0x8000_0001 },
    ],
  );
});

test('a refusal names both versions and whom to upgrade', () => {
  const old = { protocolMin: 0, protocolMax: 0, features: 0, softwareVersion: '0.0.9' };
  const future = { protocolMin: 7, protocolMax: 9, features: 0, softwareVersion: '4.2.0' };
  const own = ownAbilities('0.1.0');
  const refusal = (negotiated: ReturnType<typeof negotiate>): string =>
    negotiated.agreed ? 'agreed' : negotiated.refusal;
  assert.deepEqual(
    [
      refusal(negotiate(old, own)),
      refusal(negotiate(future, own)),
      refusal(negotiate({ ...old, protocolMin: 2, protocolMax: 1 }, own)),
    ],
    [
      'client 0.0.9 speaks protocol 0, server 0.1.0 speaks 1; upgrade the client',
      'client 4.2.0 speaks protocol 7 to 9, server 0.1.0 speaks 1; upgrade the server',
      'client 0.0.9 names an empty range of protocols (2 to 1)',
    ],
  );
});
