/**
 * The frozen bytes of MountState (test/fixtures/golden/mount_state_v1.json). Two processes of different versions hand a mount over by
 * it, so every later build reads these bytes, and writes the same for the same values. HOLDFAST_GOLDEN=write writes the file while no
 * release has carried the message.
 */

import assert from 'node:assert/strict';
import { readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'node:test';
import { packageRoot } from '../../../native/binding.js';
import type { ClientUuid, Fh, Fid, LockHandle, TargetUuid, Transno, Xid } from '../../../src/base/ids.js';
import { MountState, type MountStateMessage, STATE_VERSIONS } from '../../../src/wire/mount_state.js';
import { decode, encode } from '../../../src/wire/schema.js';

const PATH = join(packageRoot(), 'test', 'fixtures', 'golden', 'mount_state_v1.json');

const FID = (2 ** 40 + 17) as Fid;
const RANGE = {
  kind: 'posix',
  owner: '00000000000000aa',
  pid: 7,
  exclusive: true,
  start: 10,
  end: 20,
} as const;

/** Every field has a value. */
const STATE: MountStateMessage = {
  client: {
    uuid: '10000000-0000-4000-8000-000000000001' as ClientUuid,
    secret: '20000000-0000-4000-8000-000000000002',
    connCount: 3,
    nextXid: 44 as Xid,
    instance: 5,
    targetUuid: '30000000-0000-4000-8000-000000000003' as TargetUuid,
    targetIndex: 0,
    label: 'home',
    lastTransno: 600 as Transno,
    grantBytes: 7 << 20,
    metaGrantBytes: 8 << 10,
    fids: [{ start: FID, end: (FID + 1000) as Fid }],
    activeHandles: [9 as LockHandle],
    tickets: [{ fid: FID, access: 6, ticket: Buffer.from('a ticket') }],
    nextFh: 12 as Fh,
    handles: [
      {
        fh: 11 as Fh,
        fid: FID,
        flags: 2,
        directory: false,
        unknown: false,
        lost: { code: 'EIO', message: 'a lock is lost' },
        gone: true,
        writeFailure: 0,
        earlierFailure: 1,
      },
    ],
    failures: [
      { code: 'ENOSPC', message: 'no space' },
      { code: 'EIO', message: 'the device failed' },
    ],
    unreported: [{ fid: FID, failure: 1 }],
    granted: [{ fid: FID, range: RANGE, sequence: 1, fh: 11 as Fh }],
    waiting: [
      { fid: FID, range: { ...RANGE, host: 5 }, sequence: 2, fh: 11 as Fh, handle: 13 as LockHandle },
    ],
    held: [FID],
    firstFh: 1 as Fh,
  },
  kernel: {
    minor: 45,
    flagsLow: 0xf000_0001,
    flagsHigh: 0x81,
    maxWriteBytes: 1 << 20,
    maxReadaheadBytes: 1 << 17,
    maxBackground: 128,
    congestionThreshold: 96,
    nodes: Buffer.alloc(16, 1),
    lockOwners: [{ fh: 11 as Fh, owners: ['00000000000000aa'] }],
    requests: [Buffer.from('a request')],
  },
};

function frozen(): Buffer {
  if (process.env.HOLDFAST_GOLDEN === 'write') {
    const hex = encode(MountState, STATE).toString('hex');
    writeFileSync(PATH, `${JSON.stringify({ stateVersion: 1, hex }, null, 2)}\n`);
  }
  const { hex } = JSON.parse(readFileSync(PATH, 'utf8')) as { hex: string };
  return Buffer.from(hex, 'hex');
}

/** Bytes may come as views of any kind. */
function plain(value: unknown): unknown {
  if (value instanceof Uint8Array) return Buffer.from(value).toString('hex');
  if (Array.isArray(value)) return value.map(plain);
  if (typeof value !== 'object' || value === null) return value;
  return Object.fromEntries(Object.entries(value).map(([key, item]) => [key, plain(item)]));
}

test('the frozen bytes are read as they were meant, and written again', () => {
  assert.ok(STATE_VERSIONS.includes(1));
  assert.deepEqual(plain(decode(MountState, frozen())), plain(STATE));
  assert.deepEqual(encode(MountState, STATE), frozen());
});

test('fields that only a later version knows are ignored', () => {
  const later = MountState.toArray(STATE) as unknown[][];
  later[0]?.push('new');
  later[1]?.push({ more: true });
  assert.deepEqual(plain(MountState.fromArray([...later, 'new'])), plain(STATE));
});

test('what is no state is refused', () => {
  const bytes = frozen();
  assert.throws(() => decode(MountState, bytes.subarray(0, bytes.length - 3)), { code: 'EPROTO' });
  assert.throws(() => decode(MountState, Buffer.from('nonsense')), { code: 'EPROTO' });
  const { client, kernel } = STATE;
  for (const wrong of [
    { client: { ...client, nextFh: -1 as Fh }, kernel },
    { client: { ...client, label: 'x'.repeat(65) }, kernel },
    { client: { ...client, held: [0 as Fid] }, kernel },
    { client, kernel: { ...kernel, flagsHigh: 2 ** 32 } },
  ]) {
    assert.throws(() => decode(MountState, encode(MountState, wrong)), { code: 'EPROTO' });
  }
});
