import assert from 'node:assert/strict';
import { test } from 'node:test';
import { type Fid, type Name, ROOT_FID } from '../../../src/base/ids.js';
import { checkFlags, type Move } from '../../../src/rules/rename.js';
import { RENAME_EXCHANGE, RENAME_NOREPLACE, RENAME_WHITEOUT } from '../../../src/wire/meta.js';
import { errnoOf } from '../../fixtures/rules_tree.js';

test('flags of renameat2 that do not go together are refused', () => {
  const flagged = (flags: number, whiteoutFid?: number): Move => {
    const names = { parent: ROOT_FID, name: 'a' as Name, newParent: ROOT_FID, newName: 'b' as Name };
    return { ...names, flags, whiteoutFid: whiteoutFid as Fid | undefined };
  };
  const ends = (move: Move): string => errnoOf(() => checkFlags(move));
  assert.deepEqual(
    [0, RENAME_NOREPLACE, RENAME_EXCHANGE].map((flags) => ends(flagged(flags))),
    ['no error', 'no error', 'no error'],
  );
  assert.equal(ends(flagged(RENAME_WHITEOUT, 5)), 'no error');
  assert.equal(ends(flagged(RENAME_WHITEOUT | RENAME_NOREPLACE, 5)), 'no error');
  assert.deepEqual(
    [
      ends(flagged(8)),
      ends(flagged(RENAME_EXCHANGE | RENAME_NOREPLACE)),
      ends(flagged(RENAME_EXCHANGE | RENAME_WHITEOUT, 5)),
      ends(flagged(RENAME_WHITEOUT)),
      ends(flagged(0, 5)),
    ],
    ['EINVAL', 'EINVAL', 'EINVAL', 'EINVAL', 'EINVAL'],
  );
});
