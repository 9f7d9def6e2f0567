import assert from 'node:assert/strict';
import { test } from 'node:test';
import fc from 'fast-check';
import { FsError } from '../../../../src/base/errno.js';
import type { Fh, Fid, LockHandle } from '../../../../src/base/ids.js';
import { LOCK_OFFSET_MAX, type LockOffset, lockOffset } from '../../../../src/base/lock_offset.js';
import { AppLocks } from '../../../../src/client/session/app_lock_table.js';
import { FidPool } from '../../../../src/client/session/fid_pool.js';
import type { FlockRangeMessage } from '../../../../src/wire/lock.js';

const FILE = 17 as Fid;
const FH = 3 as Fh;

function range(
  start: LockOffset,
  end: LockOffset | undefined,
  more: Partial<FlockRangeMessage> = {},
): FlockRangeMessage {
  return { kind: 'posix', owner: 'aa', pid: 1, exclusive: true, start, end, ...more };
}

function held(locks: AppLocks): (readonly [LockOffset, LockOffset | undefined, boolean, string, number])[] {
  return [...locks.granted()]
    .map(
      ({ range: { start, end, exclusive, owner }, sequence }) =>
        [start, end, exclusive, owner, sequence] as const,
    )
    .sort((a, b) => (a[0] < b[0] ? -1 : 1));
}

test('app locks: unlocking the middle leaves both ends, with the order number they had', () => {
  const locks = new AppLocks();
  locks.grant(FILE, range(0, undefined), 7, FH);
  locks.release(FILE, range(10, 20));
  assert.deepEqual(held(locks), [
    [0, 10, true, 'aa', 7],
    [20, undefined, true, 'aa', 7],
  ]);
});

test('app locks: a new lock of an owner replaces its part of the old one; other owners and kinds stay', () => {
  const locks = new AppLocks();
  locks.grant(FILE, range(0, 100), 1, FH);
  locks.grant(FILE, range(200, 300, { owner: 'bb' }), 2, FH);
  locks.grant(FILE, range(50, 250, { exclusive: false }), 3, FH);
  locks.release(FILE, range(0, undefined, { kind: 'flock' }));
  assert.deepEqual(held(locks), [
    [0, 50, true, 'aa', 1],
    [50, 250, false, 'aa', 3],
    [200, 300, true, 'bb', 2],
  ]);
  assert.deepEqual([locks.kindsOf(FILE, 'aa'), locks.kindsOf(FILE, 'cc'), locks.size], [['posix'], [], 3]);
});

test('app locks: what a request under way gives up is not there for another instance', () => {
  const locks = new AppLocks();
  locks.grant(FILE, range(0, 100), 1, FH);
  locks.grant(FILE, range(200, 300), 2, FH);
  locks.grant(FILE, range(0, undefined, { kind: 'flock', owner: 'bb' }), 3, FH);
  locks.begin({ fid: FILE, range: range(0, 50), to: 'none' });
  locks.begin({ fid: FILE, range: range(80, 250, { exclusive: false }), to: 'shared' });
  locks.begin({ fid: FILE, range: range(260, 270), to: 'exclusive' });
  locks.begin({ fid: FILE, range: range(0, undefined, { kind: 'flock', owner: 'bb' }), to: 'exclusive' });
  const answered = locks.begin({ fid: FILE, range: range(0, undefined), to: 'none' });
  answered();
  locks.newInstance();
  assert.deepEqual(held(locks), [
    [50, 80, true, 'aa', 1],
    [80, 100, false, 'aa', 1],
    [200, 250, false, 'aa', 2],
    [250, 300, true, 'aa', 2],
  ]);
});

test('app locks: an eviction ends every wait with its error, and nothing is left to replay', () => {
  const locks = new AppLocks();
  const failed: string[] = [];
  locks.grant(FILE, range(0, 1), 1, FH);
  locks.wait({
    fid: FILE,
    range: range(0, 1, { owner: 'bb' }),
    handle: 5 as LockHandle,
    sequence: 2,
    fh: FH,
    granted: () => assert.fail('granted'),
    failed: (error) => failed.push(error.code),
  });
  locks.clear(new FsError('EIO'));
  assert.deepEqual([failed, locks.size, locks.stopWaiting(5 as LockHandle)], [['EIO'], 0, undefined]);
});

test('FIDs: each is given once, the next range is asked for once and before the last runs out', async () => {
  let asked = 0;
  const pool = new FidPool(async () => {
    asked += 1;
    return { start: (asked * 1000) as Fid, end: (asked * 1000 + 300) as Fid };
  });
  const given = new Set<Fid>();
  for (let i = 0; i < 700; i += 1) given.add(await pool.take());
  assert.deepEqual([given.size, asked], [700, 4]);
});

test('app locks: around 2^53 and up to the last byte they hold what a model of single bytes holds', () => {
  const BYTES = 8;
  const byte = fc.integer({ min: 0, max: BYTES - 1 });
  const step = fc.record({
    do: fc.constantFrom('write', 'read', 'none', 'weaken'),
    bounds: fc.tuple(byte, byte).map(([a, b]) => [Math.min(a, b), Math.max(a, b) + 1] as const),
  });
  const bases = [0n, 2n ** 53n - 4n, LOCK_OFFSET_MAX + 1n - BigInt(BYTES)];
  fc.assert(
    fc.property(fc.constantFrom(...bases), fc.array(step, { maxLength: 20 }), (base, steps) => {
      const place = (at: number): LockOffset => lockOffset(base + BigInt(at));
      const isLast = (at: number): boolean => base + BigInt(at) > LOCK_OFFSET_MAX;
      const locks = new AppLocks();
      const cells = new Array<string>(BYTES).fill('none');
      for (const { do: what, bounds } of steps) {
        const [from, to] = bounds;
        const part = range(place(from), isLast(to) ? undefined : place(to), { exclusive: what === 'write' });
        if (what === 'weaken') {
          // A conversion to shared that was not answered before another instance took over.
          const answered = locks.begin({ fid: FILE, range: part, to: 'shared' });
          locks.newInstance();
          answered();
          for (let at = from; at < to; at += 1) if (cells[at] === 'write') cells[at] = 'read';
          continue;
        }
        if (what === 'none') locks.release(FILE, part);
        else locks.grant(FILE, part, 1, FH);
        cells.fill(what, from, to);
      }
      const seen = cells.map((_, at) => {
        const over = held(locks).filter(
          ([start, end]) => start <= place(at) && (end === undefined || place(at) < end),
        );
        assert.ok(over.length <= 1, 'ranges of one owner do not overlap');
        return over[0] === undefined ? 'none' : over[0][2] ? 'write' : 'read';
      });
      assert.deepEqual(seen, cells);
    }),
    { numRuns: 300 },
  );
});
