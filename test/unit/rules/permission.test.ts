/** The rules of who may do what, against this kernel on a local filesystem: random files, directories, ACLs and callers. */

import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { chmodSync, mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { test } from 'node:test';
import { packageRoot } from '../../../native/binding.js';
import { isDir, isRegular, S_IFCHR, S_IFDIR, S_IFIFO, S_IFREG } from '../../../src/base/attr.js';
import { FsError } from '../../../src/base/errno.js';
import type { Fid } from '../../../src/base/ids.js';
import { ACL_ACCESS, type AclEntry, encodeAcl, modeOfAcl, TAG } from '../../../src/rules/acl.js';
import {
  type Caller,
  checkNewParent,
  checkRemoval,
  MAY_EXEC,
  MAY_WRITE,
  mayAccess,
  mayOpen,
  needAccess,
  squashed,
} from '../../../src/rules/permission.js';
import {
  checkAttrChange,
  checkNewType,
  checkXattrRead,
  checkXattrWrite,
  permittedChange,
  permittedMode,
} from '../../../src/rules/permission_attrs.js';
import { type AttrChanges, changed } from '../../../src/rules/setattr.js';
import type { Inode, Reader } from '../../../src/storage/api.js';

const NO_ID = 0xffff_ffff;
const NEVER = { sec: 0, nsec: 0 };
const CASES = 4000;

type Operation = { readonly kind: string } & Readonly<Record<string, unknown>>;

interface Case {
  readonly inode: {
    readonly type: 'file' | 'dir' | 'fifo';
    readonly mode: number;
    readonly uid: number;
    readonly gid: number;
  };
  readonly directory: { readonly mode: number; readonly uid: number; readonly gid: number };
  readonly acl: readonly AclEntry[] | null;
  readonly caller: Pick<Caller, 'uid' | 'gid' | 'groups'>;
  readonly operation: Operation;
}

/** Small numbers that repeat with their seed. */
function dice(seed: number): (below: number) => number {
  let state = seed;
  return (below) => {
    state = (Math.imul(state, 1_664_525) + 1_013_904_223) >>> 0;
    return Math.floor((state / 2 ** 32) * below);
  };
}

function randomCase(roll: (below: number) => number): Case {
  const pick = <T>(...from: readonly T[]): T => from[roll(from.length)] as T;
  const user = (): number => pick(0, 1001, 1002, 1003, 65_534);
  const group = (): number => pick(0, 2001, 2002, 2003, 65_534);
  const type = pick('file', 'file', 'file', 'dir', 'dir', 'fifo');
  const special = type === 'dir' ? pick(0, 0, 0o1000, 0o2000) : pick(0, 0, 0, 0o4000, 0o2000);
  const hasAcl = type !== 'fifo' && roll(2) === 0;
  const acl = hasAcl ? randomAcl(roll, user, group) : null;
  const mode = roll(0o1000) | special;
  const caller = {
    uid: pick(1001, 1002, 1003, 65_534),
    gid: pick(2001, 2002, 65_534),
    groups: [2001, 2002, 2003].filter(() => roll(3) === 0),
  };
  return {
    inode: { type, mode: acl === null ? mode : modeOfAcl(acl, mode), uid: user(), gid: group() },
    directory: { mode: pick(0o777, 0o1777, 0o755, 0o2777, roll(0o2000)), uid: user(), gid: group() },
    acl,
    caller,
    operation: randomOperation(roll, pick, user, group),
  };
}

function randomAcl(roll: (below: number) => number, user: () => number, group: () => number): AclEntry[] {
  const named = (tag: number, id: () => number): AclEntry[] =>
    [...new Set(Array.from({ length: roll(4) }, id))]
      .sort((a, b) => a - b)
      .map((one) => ({ tag, perm: roll(8), id: one }));
  return [
    { tag: TAG.userObj, perm: roll(8), id: NO_ID },
    ...named(TAG.user, user),
    { tag: TAG.groupObj, perm: roll(8), id: NO_ID },
    ...named(TAG.group, group),
    { tag: TAG.mask, perm: roll(8), id: NO_ID },
    { tag: TAG.other, perm: roll(8), id: NO_ID },
  ];
}

function randomOperation(
  roll: (below: number) => number,
  pick: <T>(...from: readonly T[]) => T,
  user: () => number,
  group: () => number,
): Operation {
  const access = (): Operation => ({ kind: 'access', wants: 1 + roll(7) });
  const xattr = (): string => pick('user.there', 'trusted.there', 'security.there', ACL_ACCESS);
  const others: readonly (() => Operation)[] = [
    () => ({ kind: 'search' }),
    () => ({ kind: 'chmod', mode: roll(0o10000) }),
    () => ({ kind: 'chown', uid: -1, gid: group() }),
    () => ({ kind: 'chown', uid: user(), gid: pick(-1, group()) }),
    () => ({ kind: 'touch' }),
    () => ({ kind: 'utime' }),
    () => ({ kind: 'truncate' }),
    () => ({ kind: 'getxattr', name: pick('user.there', 'trusted.there', 'security.there') }),
    () => {
      const name = xattr();
      const value = name === ACL_ACCESS ? encodeAcl(randomAcl(roll, user, group)).toString('latin1') : 'w';
      return { kind: 'setxattr', name, value };
    },
    () => ({ kind: 'unlink' }),
    () => ({ kind: 'create', mode: roll(0o10000) }),
    () => ({ kind: 'mknod', mode: pick(0o020644, 0o060644, 0o010644), rdev: pick(0, 0x103) }),
    () => ({ kind: 'rename' }),
    () => ({ kind: 'move' }),
  ];
  return roll(2) === 0 ? access() : pick(...others)();
}

const FILE = 10 as Fid;
const DIRECTORY = 9 as Fid;

function inodeOf(fid: Fid, type: number, { mode, uid, gid }: Case['directory']): Inode {
  const times = { atime: NEVER, mtime: NEVER, ctime: NEVER, btime: NEVER };
  const rest = { nlink: 1, rdev: 0, sizeBytes: 0, blocks: 0, parent: DIRECTORY, digest: undefined };
  return { fid, mode: type | mode, uid, gid, ...times, ...rest };
}

/** What the rules say, in the order in which the kernel asks. @returns the mode afterwards. */
function judged({ inode, directory, acl, caller: claimed, operation }: Case): number | undefined {
  const types = { file: S_IFREG, dir: S_IFDIR, fifo: S_IFIFO };
  const file = inodeOf(FILE, types[inode.type], inode);
  const parent = inodeOf(DIRECTORY, S_IFDIR, directory);
  const reader = {
    inode: (fid: Fid) => (fid === FILE ? file : parent),
    xattr: (fid: Fid, name: string) =>
      fid === FILE && name === ACL_ACCESS && acl !== null ? encodeAcl(acl) : undefined,
  } as Partial<Reader> as Reader;
  const caller = squashed(claimed);
  needAccess(reader, parent, caller, MAY_EXEC);
  const mode = file.mode & 0o7777;
  const change = (changes: AttrChanges): number => {
    checkAttrChange(reader, file, changes, caller, () => false);
    return changed(file, permittedChange(file, changes, caller), NEVER).mode & 0o7777;
  };
  const { kind } = operation;
  switch (kind) {
    case 'access':
      if (!mayAccess(file, acl ?? undefined, caller, operation.wants as number)) throw new FsError('EACCES');
      return mode;
    case 'search':
      return mode;
    case 'chmod':
      return change({ mode: operation.mode as number });
    case 'chown': {
      const given = (id: unknown): number | undefined => (id === -1 ? undefined : (id as number));
      return change({ uid: given(operation.uid), gid: given(operation.gid) });
    }
    case 'touch':
      return change({ atimeNow: true, mtimeNow: true });
    case 'utime':
      return change({ atime: NEVER, mtime: NEVER });
    case 'truncate':
      if (isDir(file.mode)) throw new FsError('EISDIR');
      if (!isRegular(file.mode)) throw new FsError('EINVAL');
      return change({ sizeBytes: 7 });
    case 'getxattr':
      checkXattrRead(reader, file, operation.name as string, caller);
      return mode;
    case 'setxattr':
      checkXattrWrite(reader, file, operation.name as string, caller);
      return undefined;
    case 'unlink':
      checkRemoval(reader, parent, FILE, caller);
      return undefined;
    case 'create':
      needAccess(reader, parent, caller, MAY_WRITE | MAY_EXEC);
      return permittedMode(parent, S_IFREG | (operation.mode as number), caller) & 0o7777;
    case 'mknod':
      needAccess(reader, parent, caller, MAY_WRITE | MAY_EXEC);
      checkNewType({ mode: operation.mode as number, rdev: operation.rdev as number });
      return undefined;
    case 'rename':
      checkRemoval(reader, parent, FILE, caller);
      return undefined;
    case 'move':
      checkRemoval(reader, parent, FILE, caller);
      checkNewParent(reader, FILE, caller);
      return undefined;
    default:
      throw new Error(kind);
  }
}

/** Whether truncate and chown take a set-group-id bit without group execution depends on the kernel: it gives nobody anything. */
function isMark({ operation, inode }: Case): boolean {
  const { kind } = operation;
  return (kind === 'truncate' || kind === 'chown') && (inode.mode & 0o2010) === 0o2000;
}

function verdict(one: Case): readonly [string, number | undefined] {
  try {
    return ['ok', judged(one)];
  } catch (thrown) {
    if (!(thrown instanceof FsError)) throw thrown;
    return [thrown.code, undefined];
  }
}

test('the rules answer as this kernel does', () => {
  const folder = mkdtempSync(join(tmpdir(), 'holdfast-permissions-'));
  try {
    chmodSync(folder, 0o755);
    const roll = dice(1);
    const cases = Array.from({ length: CASES }, () => randomCase(roll));
    const script = join(packageRoot(), 'test', 'fixtures', 'kernel_permissions.py');
    const { stdout, stderr, status } = spawnSync('python3', [script, folder], {
      input: JSON.stringify(cases),
      encoding: 'utf8',
      maxBuffer: 64 << 20,
    });
    assert.equal(status, 0, stderr);
    const answers = JSON.parse(stdout) as [string, number | null][];
    const wrong: unknown[] = [];
    for (const [index, one] of cases.entries()) {
      const [code, mode] = answers[index] ?? ['no answer', null];
      const [ours, after] = verdict(one);
      const isSameMode = after === undefined || ours !== 'ok' || after === mode || isMark(one);
      if (ours !== code || !isSameMode)
        wrong.push(JSON.stringify({ kernel: [code, mode], ours: [ours, after], ...one }));
    }
    assert.deepEqual(wrong.slice(0, 5), [], `${wrong.length} of ${CASES} differ`);
    assert.ok(new Set(answers.map(([code]) => code)).size >= 5, 'the cases are of many kinds');
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
});

test('a file that may be executed may be opened to be read, and a directory may not', () => {
  const none = { xattr: () => undefined };
  const caller = squashed({ uid: 1001, gid: 2001 });
  const tool = inodeOf(FILE, S_IFREG, { mode: 0o711, uid: 0, gid: 0 });
  const directory = inodeOf(FILE, S_IFDIR, { mode: 0o711, uid: 0, gid: 0 });
  const device = inodeOf(FILE, S_IFCHR, { mode: 0o711, uid: 0, gid: 0 });
  const reads = { reads: true, writes: false };
  assert.deepEqual(
    [
      mayOpen(none, tool, caller, reads),
      mayOpen(none, tool, caller, { reads: true, writes: true }),
      mayOpen(none, directory, caller, reads),
      mayOpen(none, device, caller, reads),
    ],
    [true, false, false, false],
  );
});

test('root counts as nobody, whatever it says of its groups', () => {
  const asNobody = { uid: 65_534, gid: 65_534 };
  assert.deepEqual(squashed({ uid: 0, gid: 0, groups: [0, 5, 0] }), {
    ...asNobody,
    groups: [5],
    wasRoot: true,
  });
  assert.deepEqual(squashed(undefined), { ...asNobody, groups: [], wasRoot: false });
  assert.deepEqual(squashed({ uid: 7, gid: 0 }), { uid: 7, gid: 65_534, groups: [], wasRoot: false });
});
