/**
 * The rules against a model of POSIX (test/fixtures/posix_model.ts): the same calls, in random order, must fail with the same errno
 * or leave the same tree. After each call the tree is held against what always holds, whatever the model says.
 */

import assert from 'node:assert/strict';
import { test } from 'node:test';
import { isDeepStrictEqual } from 'node:util';
import fc from 'fast-check';
import { isDir, S_IFMT } from '../../../src/base/attr.js';
import { FsError } from '../../../src/base/errno.js';
import { type Fh, type Fid, type Name, ROOT_FID } from '../../../src/base/ids.js';
import { needInode } from '../../../src/rules/checks.js';
import { applyCreate, type Creation, checkCreation, findExisting } from '../../../src/rules/create.js';
import type { Circumstances } from '../../../src/rules/inode_edits.js';
import { applyLink, checkLink, checkLinkPlace } from '../../../src/rules/link.js';
import {
  applyRename,
  checkFlags,
  checkRename,
  findNames,
  leftAsItIs,
  type Move,
  movesNothing,
} from '../../../src/rules/rename.js';
import { type AttrChanges, applySetattr, checkSetattr } from '../../../src/rules/setattr.js';
import { applyUnlink, checkUnlink, findVictim } from '../../../src/rules/unlink.js';
import {
  applyRemovexattr,
  applySetxattr,
  checkRemovexattr,
  checkSetxattr,
  checkXattrChange,
} from '../../../src/rules/xattr.js';
import type { Inode, Tx } from '../../../src/storage/api.js';
import { MemoryTree } from '../../fixtures/memory_tree.js';
import { type Call, call, type Pick } from '../../fixtures/posix_calls.js';
import {
  aclBytes,
  equivalentMode,
  type ModelAcl,
  type ModelAclEntry,
  ModelError,
  type ModelObject,
  type NodeType,
  PosixModel,
  type Time,
} from '../../fixtures/posix_model.js';

const RUNS = 2000;
/** At most; 30 on average. Short ones too, so that a failure can be made short. */
const OPERATIONS_MAX = 60;

const TYPE_BITS: Readonly<Record<NodeType, number>> = {
  fifo: 0o010000,
  char: 0o020000,
  dir: 0o040000,
  block: 0o060000,
  file: 0o100000,
  symlink: 0o120000,
  socket: 0o140000,
};

// ---- The rules, each called as the server calls them: find, check, apply.

/** Inodes that the caller would be told. */
type Told = readonly (Inode | undefined)[];

/** The tree refuses a change outside execute(): a check that changed something would fail at once. */
class Rules {
  readonly tree = new MemoryTree();
  readonly #isUsed: (fid: Fid) => boolean;

  constructor(isUsed: (fid: Fid) => boolean) {
    this.#isUsed = isUsed;
  }

  #at(now: Time): Circumstances {
    return { now, fateOf: (fid) => (this.#isUsed(fid) ? 'orphan' : 'destroyed') };
  }

  create(creation: Creation, now: Time): Told {
    checkCreation(creation);
    const entry = findExisting(this.tree, creation);
    if (entry !== undefined) return [needInode(this.tree, entry.fid)];
    return [this.tree.execute((tx) => applyCreate(tx, creation, this.#at(now))).attr];
  }
  link(fid: Fid, parent: Fid, to: Name, isLinkable: boolean, now: Time): Told {
    const request = { fid, parent, name: to };
    checkLinkPlace(this.tree, request);
    checkLink(this.tree, request, () => isLinkable);
    const { attr, parentAttr } = this.tree.execute((tx) => applyLink(tx, request, this.#at(now)));
    return [attr, parentAttr];
  }
  unlink(parent: Fid, of: Name, directory: boolean, now: Time): Told {
    const request = { parent, name: of, directory };
    const entry = findVictim(this.tree, request);
    checkUnlink(this.tree, request, entry);
    const { attr, parentAttr } = this.tree.execute((tx) => applyUnlink(tx, request, entry, this.#at(now)));
    return [attr, parentAttr];
  }
  rename(move: Move, now: Time): Told {
    checkFlags(move);
    const names = findNames(this.tree, move);
    checkRename(this.tree, move, names);
    const moved = movesNothing(names)
      ? leftAsItIs(this.tree, move, names)
      : this.tree.execute((tx) => applyRename(tx, move, names, this.#at(now)));
    return [moved.attr, moved.parentAttr, moved.newParentAttr, moved.otherAttr, moved.whiteoutAttr];
  }
  setattr(fid: Fid, changes: AttrChanges, now: Time): Told {
    checkSetattr(needInode(this.tree, fid), changes);
    return this.#change(fid, (tx, inode) => {
      const { sizeBytes } = changes;
      // As the change of the content leaves it.
      const cut = sizeBytes === undefined ? inode : { ...inode, sizeBytes, mtime: now, ctime: now };
      return applySetattr(tx, cut, changes, now);
    });
  }
  setxattr(fid: Fid, of: string, value: Buffer, flags: number, killSgid: boolean, now: Time): Told {
    const change = { name: of, value, flags, killSgid };
    checkXattrChange(change);
    return this.#change(fid, (tx, inode) => {
      checkSetxattr(tx, inode, change);
      return applySetxattr(tx, inode, change, now);
    });
  }
  removexattr(fid: Fid, of: string, now: Time): Told {
    return this.#change(fid, (tx, inode) => {
      checkRemovexattr(tx, inode, of);
      return applyRemovexattr(tx, inode, of, now);
    });
  }
  #change(fid: Fid, run: (tx: Tx, inode: Inode) => Inode): Told {
    return [this.tree.execute((tx) => run(tx, needInode(tx, fid)))];
  }
  /** The server's part: nobody has it open any more. */
  lastClose(fid: Fid): void {
    if (this.tree.inode(fid)?.nlink !== 0) return;
    this.tree.execute((tx) => {
      tx.removeOrphan(fid);
      tx.destroyInode(fid);
    });
  }
}

// ---- Both, side by side.

function aclName(which: 'access' | 'default'): string {
  return `system.posix_acl_${which}`;
}

/** Where a call goes that names no inode: gone. */
const GONE = 99;
const FIRST_NEW = 100;

class World {
  readonly model = new PosixModel(ROOT_FID);
  readonly rules = new Rules((fid) => this.model.open.has(fid));
  readonly outcomes = new Set<string>();
  #now: Time = { sec: 0, nsec: 0 };
  #nextFid = FIRST_NEW;
  #shown: Record<number, unknown> = this.model.shown();

  run(calls: readonly Call[]): void {
    for (const one of calls) this.step(one);
  }

  step(one: Call): void {
    this.#now = { sec: this.#now.sec + 1, nsec: 11 };
    const [onRules, onModel] = this.#halves(one);
    // The rules first: what is open and linkable is the model's, as it is before the call.
    let told: Told = [];
    const got = errnoOf(() => {
      told = onRules();
    });
    const expected = errnoOf(onModel);
    assert.equal(got, expected, `errno of ${JSON.stringify(one)}`);
    this.outcomes.add(`${one.do} ${got}`);
    this.#compare(told);
  }

  /** One that there is, mostly. */
  #any(at: Pick): Fid {
    const fids = this.model.fids();
    return (at % 32 === 31 ? GONE : (fids[at % fids.length] ?? GONE)) as Fid;
  }
  /** A directory, mostly. */
  #directory(at: Pick): Fid {
    if (at % 16 === 15) return this.#any(at >> 4);
    const fids = this.model.directories();
    return (fids[at % fids.length] ?? GONE) as Fid;
  }
  /** One that there is in the directory, mostly. */
  #name(directory: Fid, wanted: string): Name {
    const isThere = this.model.at(directory, wanted) !== undefined;
    const [other = wanted] = isThere || wanted === 'c' ? [] : this.model.namesIn(directory);
    return other as Name;
  }
  #newFid(): Fid {
    return this.#nextFid++ as Fid;
  }

  #halves(one: Call): [rules: () => Told, model: () => void] {
    const { model, rules } = this;
    const now = this.#now;
    switch (one.do) {
      case 'create': {
        const parent = this.#directory(one.in);
        const there = model.at(parent, one.name);
        const fid = (one.again && there !== undefined ? there : this.#newFid()) as Fid;
        const opens = one.opens && one.object.type === 'file';
        return [
          () => rules.create(creationOf(fid, parent, one.name, one.object, one.exclusive, opens), now),
          () => model.create(fid, parent, one.name, one.object, { exclusive: one.exclusive, opens }, now),
        ];
      }
      case 'tmpfile': {
        const parent = this.#directory(one.in);
        const fid = this.#newFid();
        return [
          () => rules.create(creationOf(fid, parent, undefined, one.object, true, true), now),
          () => model.tmpfile(fid, parent, one.object, now),
        ];
      }
      case 'link': {
        const [fid, parent] = [this.#any(one.what), this.#directory(one.in)];
        return [
          () => rules.link(fid, parent, one.name as Name, model.isLinkable(fid), now),
          () => model.link(fid, parent, one.name, now),
        ];
      }
      case 'unlink': {
        const parent = this.#directory(one.in);
        const victimName = this.#name(parent, one.name);
        const victim = model.at(parent, victimName);
        const isDirectory = victim !== undefined && model.typeOf(victim) === 'dir';
        const rmdir = one.rmdir === 'as it is' ? isDirectory : one.rmdir;
        return [
          () => rules.unlink(parent, victimName, rmdir, now),
          () => model.unlink(parent, victimName, rmdir, now),
        ];
      }
      case 'rename': {
        const { flags } = one;
        const [parent, newParent] = [this.#directory(one.in), this.#directory(one.to)];
        const whiteout = { fid: this.#newFid(), uid: 1, gid: 2 };
        const made = (flags & 4) === 0 ? {} : { whiteoutFid: whiteout.fid, uid: 1, gid: 2 };
        const [from, to] = [this.#name(parent, one.name), one.newName as Name];
        return [
          () => rules.rename({ parent, name: from, newParent, newName: to, flags, ...made }, now),
          () => model.rename([parent, from], [newParent, to], flags, whiteout, now),
        ];
      }
      case 'open':
      case 'close':
        return this.#handle(one.do, this.#any(one.what));
      case 'setAcl':
        // A default ACL is for what is made in a directory later.
        return this.#onInode(one, one.which === 'default' ? this.#directory(one.what) : this.#any(one.what));
      default:
        return this.#onInode(one, this.#any(one.what));
    }
  }

  #handle(what: 'open' | 'close', fid: Fid): [rules: () => Told, model: () => void] {
    const nothing = (): Told => [];
    if (what === 'open') {
      // Only what there is is opened, and the kernel keeps what it has open.
      const isThere = this.model.typeOf(fid) !== undefined;
      return [nothing, () => isThere && this.model.open.add(fid)];
    }
    const close = (): Told => {
      this.rules.lastClose(fid);
      return [];
    };
    return [close, () => this.model.close(fid)];
  }

  #onInode(
    one: Exclude<
      Call,
      { readonly do: 'create' | 'tmpfile' | 'link' | 'unlink' | 'rename' | 'open' | 'close' }
    >,
    fid: Fid,
  ): [rules: () => Told, model: () => void] {
    const { model, rules } = this;
    const now = this.#now;
    switch (one.do) {
      case 'chmod':
        // The kernel refuses it.
        if (model.typeOf(fid) === 'symlink') return [() => [], () => undefined];
        return [() => rules.setattr(fid, { mode: one.bits }, now), () => model.chmod(fid, one.bits, now)];
      case 'chown': {
        const { uid, gid } = one;
        if (uid === undefined && gid === undefined) return [() => [], () => undefined];
        // With HANDLE_KILLPRIV_V2 the kernel leaves it to the filesystem, and the client always asks for it.
        return [
          () => rules.setattr(fid, { uid, gid, killSuidgid: true }, now),
          () => model.chown(fid, uid, gid, now),
        ];
      }
      case 'truncate': {
        const changes = { sizeBytes: one.size, killSuidgid: !one.isPrivileged };
        return [
          () => rules.setattr(fid, changes, now),
          () => model.truncate(fid, one.size, one.isPrivileged, now),
        ];
      }
      case 'losePrivileges':
        if (model.typeOf(fid) === 'dir') return [() => [], () => undefined];
        return [() => rules.setattr(fid, { killSuidgid: true }, now), () => model.losePrivileges(fid, now)];
      case 'utimens': {
        const changes = {
          ...(one.atime === 'now' ? { atimeNow: true } : { atime: one.atime }),
          ...(one.mtime === 'now' ? { mtimeNow: true } : { mtime: one.mtime }),
        };
        return [() => rules.setattr(fid, changes, now), () => model.utimens(fid, one.atime, one.mtime, now)];
      }
      case 'setxattr': {
        const value = Buffer.from(one.value, 'hex');
        return [
          () => rules.setxattr(fid, one.name, value, one.flags, false, now),
          () => model.setxattr(fid, one.name, one.value, one.flags, now),
        ];
      }
      case 'removexattr':
        return [() => rules.removexattr(fid, one.name, now), () => model.removexattr(fid, one.name, now)];
      case 'setAcl':
        return [
          () => rules.setxattr(fid, aclName(one.which), aclBytes(one.acl), 0, !one.inGroup, now),
          () => model.setAcl(fid, one.which, one.acl, one.inGroup, now),
        ];
      case 'removeAcl':
        return [
          () => rules.removexattr(fid, aclName(one.which), now),
          () => model.removeAcl(fid, one.which, now),
        ];
    }
  }

  #compare(told: Told): void {
    const { tree } = this.rules;
    const shown = showTree(tree);
    const expected = this.model.shown();
    // The short way first: the long one is for what it prints.
    if (!isDeepStrictEqual(shown, expected)) assert.deepEqual(shown, expected);
    for (const inode of told) {
      if (inode === undefined) continue;
      // What was destroyed is told without names; everything else as it lies there.
      assert.deepEqual(inode, tree.inode(inode.fid) ?? { ...inode, nlink: 0, parent: 0, ctime: this.#now });
    }
    checkTree(tree);
    this.#checkTimes(shown);
  }

  /** What changed has the time of the call as its ctime. What did not change was not touched. */
  #checkTimes(shown: Record<number, unknown>): void {
    const { tree } = this.rules;
    for (const fid of tree.fids()) {
      if (isDeepStrictEqual(shown[fid], this.#shown[fid])) continue;
      assert.deepEqual(tree.inode(fid)?.ctime, this.#now, `ctime of ${fid}, which changed`);
    }
    this.#shown = shown;
  }
}

function creationOf(
  fid: Fid,
  parent: Fid,
  of: string | undefined,
  object: ModelObject,
  exclusive: boolean,
  opens: boolean,
): Creation {
  return {
    parent,
    name: of as Name | undefined,
    fid,
    mode: TYPE_BITS[object.type] | object.bits,
    umask: object.umask,
    uid: object.uid,
    gid: object.gid,
    rdev: object.rdev,
    target: object.type === 'symlink' ? Buffer.from(object.text, 'latin1') : undefined,
    exclusive,
    fh: opens ? (1 as Fh) : undefined,
  };
}

function errnoOf(run: () => unknown): string {
  try {
    run();
    return 'no error';
  } catch (error) {
    if (error instanceof FsError) return error.code;
    if (error instanceof ModelError) return error.message;
    throw error;
  }
}

function showTree(tree: MemoryTree): Record<number, unknown> {
  const shown: Record<number, unknown> = {};
  const orphans = new Set(tree.orphans());
  for (const fid of tree.fids()) {
    const inode = needInode(tree, fid);
    const { mode, nlink, uid, gid, rdev, sizeBytes, atime, mtime, ctime, btime, parent } = inode;
    const names = tree.dirents(fid, 0, 1000);
    shown[fid] = {
      mode,
      nlink,
      uid,
      gid,
      rdev,
      size: sizeBytes,
      times: [atime, mtime, ctime, btime].map(({ sec, nsec }) => `${sec}.${nsec}`),
      parent,
      text: tree.symlinkTarget(fid)?.toString('latin1'),
      names: names.map((entry) => `${entry.name} ${entry.fid} ${entry.type}`).sort(),
      xattrs: tree
        .xattrNames(fid)
        .map((of) => `${of}=${tree.xattr(fid, of)?.toString('hex')}`)
        .sort(),
      orphan: orphans.has(fid),
    };
  }
  return shown;
}

/** What holds in every tree, whatever was called. */
function checkTree(tree: MemoryTree): void {
  for (const fid of tree.fids()) {
    const says = needInode(tree, fid).noXattrs;
    if (says === true) assert.deepEqual(tree.xattrNames(fid), [], `inode ${fid} says that it has none`);
  }
  const links = new Map<Fid, number>();
  const reached = new Set<Fid>();
  const walk = (fid: Fid, parent: Fid): void => {
    assert.ok(!reached.has(fid), `directory ${fid} is reached twice: a circle, or two names`);
    reached.add(fid);
    assert.equal(needInode(tree, fid).parent, parent, `parent of ${fid}`);
    let directories = 0;
    for (const entry of tree.dirents(fid, 0, 1000)) {
      assert.equal(needInode(tree, entry.fid).mode & S_IFMT, entry.type, `type of ${entry.fid} in its name`);
      if (isDir(entry.type)) {
        directories += 1;
        walk(entry.fid, fid);
      } else {
        links.set(entry.fid, (links.get(entry.fid) ?? 0) + 1);
      }
    }
    links.set(fid, 2 + directories);
  };
  walk(ROOT_FID, ROOT_FID);
  const orphans = new Set(tree.orphans());
  for (const fid of tree.fids()) {
    const { nlink, mode, parent } = needInode(tree, fid);
    assert.equal(nlink, links.get(fid) ?? 0, `link count of ${fid}`);
    assert.equal(orphans.has(fid), nlink === 0, `${fid} is an orphan`);
    if (nlink === 0) assert.deepEqual([parent, tree.directoryEmpty(fid)], [0, true], `${fid} is left alone`);
    if (!isDir(mode)) assert.equal(parent, 0, `${fid} may have several parents`);
    const access = tree.xattr(fid, aclName('access'));
    if (access !== undefined) assert.equal(mode & 0o777, equivalentMode(entriesOf(access)), `ACL of ${fid}`);
  }
}

function entriesOf(bytes: Buffer): ModelAcl {
  const entries: ModelAclEntry[] = [];
  for (let at = 4; at < bytes.length; at += 8) {
    const [tag, of, whose] = [bytes.readUInt16LE(at), bytes.readUInt16LE(at + 2), bytes.readUInt32LE(at + 4)];
    entries.push({ tag, perm: of, id: whose });
  }
  return entries;
}

/** Outcomes that random calls must have met, each in dozens of sequences: a test that never comes there shows nothing. */
const MET: readonly string[] = Object.entries({
  create: ['EEXIST', 'EISDIR', 'ELOOP', 'ENOENT', 'ENOTDIR'],
  tmpfile: ['ENOTDIR'],
  link: ['EPERM', 'EEXIST', 'ENOENT', 'ENOTDIR', 'ESTALE'],
  unlink: ['ENOENT', 'ENOTDIR', 'EISDIR', 'ENOTEMPTY'],
  rename: ['EINVAL', 'ENOENT', 'EEXIST', 'ENOTDIR', 'EISDIR', 'ENOTEMPTY'],
  chmod: ['ESTALE'],
  chown: ['ESTALE'],
  truncate: ['EISDIR', 'EINVAL', 'EFBIG', 'ESTALE'],
  losePrivileges: [],
  utimens: [],
  setxattr: ['EEXIST', 'ENODATA', 'ESTALE'],
  removexattr: ['ENODATA', 'ESTALE'],
  setAcl: ['EACCES', 'EOPNOTSUPP', 'ESTALE'],
  removeAcl: [],
}).flatMap(([one, errnos]) => ['no error', ...errnos].map((errno) => `${one} ${errno}`));

test('random calls fail as POSIX says, or leave the tree that it says', () => {
  const met = new Set<string>();
  fc.assert(
    fc.property(fc.array(call, { minLength: 1, maxLength: OPERATIONS_MAX, size: 'max' }), (calls) => {
      const world = new World();
      world.run(calls);
      for (const outcome of world.outcomes) met.add(outcome);
    }),
    { numRuns: RUNS, includeErrorInReport: true },
  );
  assert.deepEqual(
    MET.filter((outcome) => !met.has(outcome)),
    [],
  );
});
