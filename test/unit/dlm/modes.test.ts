import assert from 'node:assert/strict';
import { test } from 'node:test';
import fc from 'fast-check';
import type { LockSpec, Mode } from '../../../src/dlm/api.js';
import { compareSpecs, inLockOrder, joinModes, modeCovers, modesConflict } from '../../../src/dlm/modes.js';
import { active, data, inode } from '../../worlds/dlm_world.js';

const MODES: readonly Mode[] = ['EX', 'PW', 'PR', 'CW', 'CR', 'NL'];
/** lustre_dlm.h, LCK_COMPAT_*: whom each mode tolerates. */
const COMPATIBLE: Readonly<Record<Mode, readonly Mode[]>> = {
  EX: ['NL'],
  PW: ['CR', 'NL'],
  PR: ['PR', 'CR', 'NL'],
  CW: ['CW', 'CR', 'NL'],
  CR: ['PW', 'PR', 'CW', 'CR', 'NL'],
  NL: ['EX', 'PW', 'PR', 'CW', 'CR', 'NL'],
};

test('modes conflict as in the matrix of Lustre', () => {
  for (const a of MODES) {
    for (const b of MODES) assert.equal(modesConflict(a, b), !COMPATIBLE[a].includes(b), `${a} with ${b}`);
  }
});

test('a mode covers another when it excludes at least the same modes', () => {
  const covered = (held: Mode): Mode[] => MODES.filter((wanted) => modeCovers(held, wanted));
  assert.deepEqual(Object.fromEntries(MODES.map((mode) => [mode, covered(mode)])), {
    EX: ['EX', 'PW', 'PR', 'CW', 'CR', 'NL'],
    PW: ['PW', 'PR', 'CW', 'CR', 'NL'],
    PR: ['PR', 'CR', 'NL'],
    CW: ['CW', 'CR', 'NL'],
    CR: ['CR', 'NL'],
    NL: ['NL'],
  });
});

test('two modes join to the weakest that covers both', () => {
  assert.deepEqual(
    [joinModes('PR', 'PR'), joinModes('PR', 'CW'), joinModes('CR', 'PW'), joinModes('NL', 'EX')],
    ['PR', 'PW', 'PW', 'EX'],
  );
});

test('specs are ordered by type, then FID, and joined where they name one resource', () => {
  assert.deepEqual(
    inLockOrder([
      data(4, 'PR'),
      inode(9, 'EX', 1),
      data(4, 'EX'),
      inode(2, 'PR', 2),
      active('PR'),
      inode(9, 'EX', 2),
    ]),
    [active('PR'), data(4, 'EX'), inode(2, 'PR', 2), inode(9, 'EX', 3)],
  );
});

test('whatever the order they come in, operations lock in one order and never one resource twice', () => {
  const spec: fc.Arbitrary<LockSpec> = fc.record({
    type: fc.constantFrom('inode', 'data'),
    fid: fc.integer({ min: 1, max: 6 }),
    mode: fc.constantFrom(...MODES),
    bits: fc.integer({ min: 0, max: 3 }),
  }) as fc.Arbitrary<LockSpec>;
  fc.assert(
    fc.property(fc.array(spec), (specs) => {
      const ordered = inLockOrder(specs);
      for (let i = 1; i < ordered.length; i++) {
        assert.ok(compareSpecs(ordered[i - 1] as LockSpec, ordered[i] as LockSpec) < 0);
      }
      for (const wanted of specs) {
        const got = ordered.find((other) => compareSpecs(other, wanted) === 0);
        assert.ok(got !== undefined && modeCovers(got.mode, wanted.mode) && (wanted.bits & ~got.bits) === 0);
      }
    }),
  );
});
