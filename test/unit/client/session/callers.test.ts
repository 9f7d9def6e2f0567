/** Who asks: what a client says of its processes, and when it looks up their groups. */

import assert from 'node:assert/strict';
import { test } from 'node:test';
import { FsError } from '../../../../src/base/errno.js';
import { type Asker, callAs, inBackground } from '../../../../src/client/session/callers.js';
import type { TargetSession } from '../../../../src/client/session/target_session.js';
import { Open } from '../../../../src/wire/meta.js';

const REQUEST = { fid: 5, fh: 1, flags: 0, want: 0 } as never;
const ASKER: Asker = { uid: 1000, gid: 100, pid: 77, signal: undefined };

/** A target that refuses whoever is not in group 50. */
function target(squashesRoot: boolean, sent: unknown[], code: 'EACCES' | 'ENOENT' = 'EACCES'): TargetSession {
  const call = async (_kind: string, _operation: unknown, request: { caller?: { groups?: number[] } }) => {
    sent.push(request.caller);
    if (squashesRoot && request.caller?.groups?.includes(50) !== true) throw new FsError(code);
    return { reply: {} };
  };
  return { squashesRoot, call } as unknown as TargetSession;
}

const caller = (groups?: readonly number[]) => ({ uid: 1000, gid: 100, groups });

test('a target that believes its clients hears nothing of users', async () => {
  const sent: unknown[] = [];
  await callAs(target(false, sent), ASKER, () => [50], Open, REQUEST, { kind: 'operation' });
  assert.deepEqual(sent, [undefined]);
});

test('a refusal is asked again with the groups, once, and only if there are any', async () => {
  const asked: unknown[] = [];
  const groupsOf = (of: { readonly pid?: number | undefined }): readonly number[] => {
    asked.push(of.pid);
    return of.pid === 77 ? [7, 50] : [];
  };
  const sent: unknown[] = [];
  await callAs(target(true, sent), ASKER, groupsOf, Open, REQUEST, { kind: 'operation' });
  assert.deepEqual([sent, asked], [[caller(), caller([7, 50])], [77]]);
  sent.length = 0;
  const other = callAs(target(true, sent), ASKER, () => [8], Open, REQUEST, { kind: 'operation' });
  await assert.rejects(other, { code: 'EACCES' });
  assert.deepEqual(sent, [caller(), caller([8])]);
  sent.length = 0;
  const background = callAs(target(true, sent), inBackground(ASKER), groupsOf, Open, REQUEST, {
    kind: 'data',
  });
  await assert.rejects(background, { code: 'EACCES' });
  assert.deepEqual(sent, [caller()]);
});

test('other failures, and callers who have gone, are not asked again', async () => {
  const sent: unknown[] = [];
  const failed = callAs(target(true, sent, 'ENOENT'), ASKER, () => [50], Open, REQUEST, {
    kind: 'operation',
  });
  await assert.rejects(failed, { code: 'ENOENT' });
  const gone = { ...ASKER, signal: AbortSignal.abort() };
  const late = callAs(target(true, sent), gone, () => [50], Open, REQUEST, { kind: 'operation' });
  await assert.rejects(late, { code: 'EACCES' });
  assert.deepEqual(sent, [caller(), caller()]);
});

test('where the answer depends on the groups without a refusal, they go at once', async () => {
  const sent: unknown[] = [];
  await callAs(target(true, sent), ASKER, () => [50], Open, REQUEST, {
    kind: 'operation',
    needsGroups: true,
  });
  assert.deepEqual(sent, [caller([50])]);
});
