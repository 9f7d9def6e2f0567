/**
 * Operations on names and attributes that the client executes by itself, because nothing that it does not know can refuse them
 * (docs/WRITE_BACK.md): the directories are its own, the inodes are ours (own_directories.ts) or own directories. The caches are changed in the turn of the call by
 * the rules that the target runs too (src/rules), and the change log tells the target later.
 *
 * Each method answers undefined (or false) if the target must be asked. Then nothing was changed. The caller is inside the gate.
 *
 * What the client does not do by itself: a second name (LINK) or an exchange; a new size; the removal of an open inode, because the
 * target has to know the handle first; anything on an inode with extended attributes; times of a file while a WRITE of it is
 * under way, because the target may finish it later.
 */

import { type Attr, compareTime, isDir, isRegular, isSymlink, type Timespec } from '../../base/attr.js';
import { type Fid, type Name, ROOT_FID } from '../../base/ids.js';
import type { CachedLock } from '../../dlm/api.js';
import { bareAttr, checkCreation } from '../../rules/create.js';
import { changed } from '../../rules/setattr.js';
import { operationCost } from '../../wire/batch.js';
import { BIT_ATTR } from '../../wire/lock.js';
import {
  RENAME_NOREPLACE,
  type Rename,
  type Unlink,
  WANT_ATTR,
  WANT_DATA_WRITE,
  WANT_OWN,
} from '../../wire/meta.js';
import type { RequestOf } from '../../wire/operation.js';
import type { AttrChange } from '../api.js';
import type { ClientContext } from '../cache/context.js';
import type { WriteBack } from '../io/write_back.js';
import { type Born, nameKey } from '../session/change_log.js';
import { OWN_BITS } from '../session/own_directories.js';
import type { TargetSession } from '../session/target_session.js';
import type { HeldInodes } from './held_inodes.js';
import { type Creation, changesOf } from './namespace.js';

/** A directory of ours, with what the client knows of it. */
interface OwnDirectory {
  readonly lock: CachedLock;
  readonly attr: Attr;
}

export class OwnNames {
  readonly #context: ClientContext;
  readonly #writeBack: WriteBack;
  readonly #held: HeldInodes;

  constructor(context: ClientContext, writeBack: WriteBack, held: HeldInodes) {
    this.#context = context;
    this.#writeBack = writeBack;
    this.#held = held;
  }

  /** @throws FsError EINVAL, ENOENT for an object that cannot be made anywhere. */
  create(target: TargetSession, object: Omit<Creation, 'exclusive'>): Attr | undefined {
    const { names, attrs } = this.#context;
    const { parent, name } = object;
    if (name === undefined || names.get(parent, name) !== 0) return undefined;
    const directory = this.#ownDirectory(target, parent);
    // A default ACL would decide what the object inherits.
    if (directory?.attr.noXattrs !== true) return undefined;
    const costBytes = operationCost(name.length + (object.target?.length ?? 0), 0);
    if (!target.changes.hasRoom(costBytes)) return undefined;
    const creation = { ...object, exclusive: true, fh: undefined, flags: undefined };
    checkCreation(creation);
    const time = target.now(directory.attr.ctime);
    const attr = bareAttr(directory.attr, creation, time);
    const born = this.#giveBirth(target, attr, directory.lock);
    const want = WANT_ATTR | (isDir(attr.mode) ? WANT_OWN : isRegular(attr.mode) ? WANT_DATA_WRITE : 0);
    attrs.put(attr);
    if (object.target !== undefined && isSymlink(attr.mode)) attrs.putSymlinkTarget(attr.fid, object.target);
    if (isDir(attr.mode)) names.setComplete(attr.fid);
    names.put(parent, name, attr.fid);
    this.#changeDirectory(directory.attr, isDir(attr.mode) ? 1 : 0, time);
    target.changes.add({
      operation: { create: { ...creation, want, time } },
      touches: [parent, attr.fid],
      names: [nameKey(parent, name)],
      born,
      costBytes,
    });
    return attr;
  }

  /** The locks that the target will grant with its answer: nobody else can want them before. */
  #giveBirth(target: TargetSession, attr: Attr, home: CachedLock): Born {
    const { fid, mode } = attr;
    const { locks, own } = target;
    const held: CachedLock[] = [];
    if (isDir(mode)) {
      held.push(locks.addAhead({ type: 'inode', fid, mode: 'PR', bits: OWN_BITS }));
      held.push(locks.addAhead({ type: 'inode', fid, mode: 'EX', bits: OWN_BITS }));
    } else {
      held.push(locks.addAhead({ type: 'inode', fid, mode: 'PR', bits: BIT_ATTR }));
    }
    if (isRegular(mode)) {
      held.push(locks.addAhead({ type: 'data', fid, mode: 'PW', bits: 0 }));
      this.#context.files.of(fid).adopt(attr);
    }
    own.addPrivate(fid, home);
    // Locks take memory from what pages may have.
    this.#context.pages.makeRoom();
    return { fid, locks: held };
  }

  setattr(target: TargetSession, fid: Fid, change: AttrChange): Attr | undefined {
    const { attrs, files } = this.#context;
    const { changes, own } = target;
    if (change.sizeBytes !== undefined) return undefined;
    const attr = attrs.get(fid);
    if (attr?.noXattrs !== true || attr.nlink === 0 || changes.isPinned(fid)) return undefined;
    if (isDir(attr.mode) ? this.#ownDirectory(target, fid) === undefined : !own.isOurs(fid)) return undefined;
    const file = isRegular(attr.mode) ? files.get(fid) : undefined;
    // The answer says how long the file is.
    if (isRegular(attr.mode) && file?.sizeKnown !== true) return undefined;
    const setsTimes = change.atime !== undefined || change.mtime !== undefined || change.ctime !== undefined;
    if (file !== undefined && (file.exclusives > 0 || (setsTimes && file.hasWritesUnderWay)))
      return undefined;
    const costBytes = operationCost(0, 0);
    if (!changes.hasRoom(costBytes)) return undefined;
    const time = target.now(attr.ctime, ...(file === undefined ? [] : [file.ctime]));
    const wanted = changesOf(change);
    const before = file === undefined ? attr : { ...attr, mtime: file.mtime };
    const after = changed(before, wanted, time);
    attrs.put(after);
    if (fid === ROOT_FID) attrs.sawRoot(after);
    if (file !== undefined) {
      file.mtime = after.mtime;
      file.ctime = after.ctime;
    }
    changes.add({
      operation: { setattr: { fid, ...wanted, time } },
      touches: [fid],
      names: [],
      costBytes,
    });
    return after;
  }

  unlink(target: TargetSession, removed: RequestOf<typeof Unlink>): boolean {
    const { names } = this.#context;
    const { parent, name, directory } = removed;
    const fid = names.get(parent, name);
    if (fid === undefined || fid === 0) return false;
    const victim = this.#removable(target, fid);
    const home = victim === undefined ? undefined : this.#ownDirectory(target, parent);
    if (victim === undefined || home === undefined || isDir(victim.mode) !== directory) return false;
    const costBytes = operationCost(name.length, 0);
    if (!target.changes.hasRoom(costBytes)) return false;
    const time = target.now(home.attr.ctime, victim.ctime);
    names.put(parent, name, 0);
    this.#changeDirectory(home.attr, directory ? -1 : 0, time);
    this.#remove(target, victim, time);
    target.changes.add({
      operation: { unlink: { parent, name, directory, time } },
      touches: [parent, fid],
      names: [nameKey(parent, name)],
      costBytes,
    });
    return true;
  }

  rename(target: TargetSession, move: RequestOf<typeof Rename>): boolean {
    const { names, attrs, files } = this.#context;
    const { changes, own } = target;
    const { parent, name, newParent, newName, flags } = move;
    if ((flags & ~RENAME_NOREPLACE) !== 0) return false;
    const fid = names.get(parent, name);
    const other = names.get(newParent, newName);
    if (fid === undefined || fid === 0 || other === undefined || other === fid) return false;
    if (other !== 0 && (flags & RENAME_NOREPLACE) !== 0) return false;
    const from = this.#ownDirectory(target, parent);
    const to = this.#ownDirectory(target, newParent);
    const moved = this.#movable(target, fid, parent === newParent);
    if (from === undefined || to === undefined || moved === undefined) return false;
    const replaced = other === 0 ? undefined : this.#removable(target, other);
    if (other !== 0 && (replaced === undefined || isDir(replaced.mode) || isDir(moved.mode))) return false;
    const file = files.get(fid);
    const contentOf = file?.isDirty === true ? fid : undefined;
    const costBytes = operationCost(name.length + newName.length, 0);
    if (!changes.hasRoom(costBytes, contentOf !== undefined)) return false;
    const { attr } = from;
    const time = target.now(attr.ctime, to.attr.ctime, moved.ctime);
    names.put(parent, name, 0);
    names.put(newParent, newName, fid);
    this.#changeDirectory(attr, 0, time);
    if (newParent !== parent) this.#changeDirectory(to.attr, 0, time);
    attrs.put({ ...moved, ctime: time });
    if (file !== undefined && compareTime(time, file.ctime) > 0) file.ctime = time;
    own.move(fid, to.lock);
    if (replaced !== undefined) this.#remove(target, replaced, time);
    changes.add({
      operation: { rename: { parent, name, newParent, newName, flags, time } },
      touches: [parent, newParent, fid, ...(replaced === undefined ? [] : [replaced.fid])],
      names: [nameKey(parent, name), nameKey(newParent, newName)],
      contentOf,
      costBytes,
    });
    return true;
  }

  /** Whether the client alone decides which names are in the directory. */
  owns(target: TargetSession, directory: Fid): boolean {
    return target.batchUsed && target.locks.match('inode', directory, 'EX', OWN_BITS) !== undefined;
  }

  /** Whether the client lacks an own lock to change what has this name. */
  lacksLock(target: TargetSession, parent: Fid, name: Name): boolean {
    const { names } = this.#context;
    if (!target.ownFilesUsed) return false;
    if (!this.owns(target, parent)) return true;
    const fid = names.get(parent, name);
    return fid === undefined || (fid !== 0 && this.lacksOwn(target, fid));
  }

  /** The same for an inode. */
  lacksOwn(target: TargetSession, fid: Fid): boolean {
    const attr = this.#context.attrs.get(fid);
    if (!target.ownFilesUsed || (attr !== undefined && (isDir(attr.mode) || attr.nlink !== 1))) return false;
    return !target.own.isOurs(fid);
  }

  /** The directory, if the client may change it by itself now. */
  #ownDirectory(target: TargetSession, fid: Fid): OwnDirectory | undefined {
    if (!target.batchUsed || target.changes.isPinned(fid)) return undefined;
    const lock = target.locks.match('inode', fid, 'EX', OWN_BITS);
    const attr = lock === undefined ? undefined : this.#context.attrs.get(fid);
    if (lock === undefined || attr === undefined || !isDir(attr.mode) || attr.nlink === 0) return undefined;
    return { lock, attr };
  }

  /** The inode, if the client may take its only name away. */
  #removable(target: TargetSession, fid: Fid): Attr | undefined {
    const { attrs, files, handles, names } = this.#context;
    const attr = attrs.get(fid);
    if (attr === undefined || handles.isOpen(fid) || target.changes.isPinned(fid)) return undefined;
    if (isDir(attr.mode)) {
      return this.#ownDirectory(target, fid) !== undefined && names.isKnownEmpty(fid) ? attr : undefined;
    }
    if (!target.own.isOurs(fid) || attr.nlink !== 1 || files.get(fid)?.isBusy === true) return undefined;
    return attr;
  }

  /**
   * The inode, if the client may give it another name. What is dirty of it must go with the BATCH that makes it: a program that writes
   * a file and then renames it counts on it that nobody sees a short file under the new name, whatever happens.
   */
  #movable(target: TargetSession, fid: Fid, stays: boolean): Attr | undefined {
    const { attrs, files } = this.#context;
    const attr = attrs.get(fid);
    if (attr === undefined || target.changes.isPinned(fid)) return undefined;
    if (isDir(attr.mode)) return stays && this.#ownDirectory(target, fid) !== undefined ? attr : undefined;
    if (!target.own.isOurs(fid)) return undefined;
    const file = files.get(fid);
    if (file !== undefined && file.exclusives > 0) return undefined;
    const isOnItsWay = file === undefined || (!file.isDirty && !file.hasWritesUnderWay);
    return isOnItsWay || (target.changes.isWaiting(fid) && this.#writeBack.isWhole(fid)) ? attr : undefined;
  }

  #changeDirectory(attr: Attr, nlinkDelta: number, time: Timespec): void {
    const { attrs } = this.#context;
    const after = { ...attr, nlink: attr.nlink + nlinkDelta, mtime: time, ctime: time };
    attrs.put(after);
    if (attr.fid === ROOT_FID) attrs.sawRoot(after);
  }

  /** The inode has lost its only name. Nobody has it open, so nobody will read what is dirty in it. */
  #remove(target: TargetSession, attr: Attr, time: Timespec): void {
    const context = this.#context;
    const { fid } = attr;
    target.own.forget(fid);
    context.attrs.put({ ...attr, nlink: 0, ctime: time });
    const file = context.files.get(fid);
    if (file !== undefined) {
      context.dropPages(target, file);
      this.#writeBack.dropped(file);
    }
    this.#held.unlinked(target, fid);
  }
}
