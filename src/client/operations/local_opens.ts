/**
 * Opens that the target does not hear of (FEATURE.localOpens): open and close cost no message.
 *
 * A target must know who has an inode open before the inode loses its last name: then it keeps the inode as an orphan. While
 * this client holds ATTR on an inode, no other client can take a name of it away, because UNLINK and RENAME need the lock EX. So
 * the client opens such an inode by itself, and tells the target (REPLAY_OPENS) before
 * - the lock goes back, whatever the cause;
 * - an operation of its own leaves that may take the last name away. From then on, until the operation is answered, opens of this
 *   inode go to the target. The client may not know which inode has the name: its cache has dropped it, or a RENAME of this name is
 *   not answered (its caller was interrupted). Then all this holds for all inodes.
 * A new instance of the target hears of all handles, so then none of them is local any more.
 *
 * Invariant: a handle that the target does not know is of an inode on which the client holds ATTR.
 */

import { assert } from '../../base/assert.js';
import { isDir, isRegular, opensForWrite } from '../../base/attr.js';
import { Counts } from '../../base/counts.js';
import type { Fh, Fid, Name } from '../../base/ids.js';
import { logger } from '../../base/log.js';
import { BIT_ATTR, BIT_UPDATE } from '../../wire/lock.js';
import { ReplayOpens } from '../../wire/session.js';
import type { ClientContext } from '../cache/context.js';
import type { Handle } from '../cache/open_files.js';
import type { TargetSession } from '../session/target_session.js';

const log = logger('client:opens');

/** Limit on the handles in one message: half of the limit of its schema. */
const REPORT_MAX = 5000;

/** Of a rename. */
interface Names {
  readonly parent: Fid;
  readonly name: Name;
  readonly newParent: Fid;
  readonly newName: Name;
}

function keyOf(parent: Fid, name: Name): string {
  return `${parent}/${name}`;
}

export class LocalOpens {
  readonly #context: ClientContext;
  /** Inodes that operations under way may leave without a name. */
  readonly #losing = new Counts<Fid>();
  /** Operations under way of which the client does not know what they remove. */
  #losingAny = 0;
  /** Names to which operations under way may give another inode. */
  readonly #changing = new Counts<string>();
  /** Handles to report, in the order in which their locks were called back. */
  readonly #unreported = new Map<TargetSession, Handle[]>();

  constructor(context: ClientContext) {
    this.#context = context;
  }

  /**
   * To be called inside the gate.
   * @param flags those of open(2), without the ones that act once.
   * @returns undefined: the target must be asked.
   */
  open(target: TargetSession, fid: Fid, flags: number): Fh | undefined {
    const context = this.#context;
    if (!target.localOpensUsed || this.#losingAny > 0 || this.#losing.has(fid)) return undefined;
    const attr = context.attrs.get(fid);
    if (attr === undefined || attr.nlink === 0) return undefined;
    const directory = isDir(attr.mode);
    // The target refuses it.
    if (directory && opensForWrite(flags)) return undefined;
    const bits = directory ? BIT_ATTR | BIT_UPDATE : BIT_ATTR;
    if (target.locks.match('inode', fid, 'PR', bits) === undefined) return undefined;
    const fh = context.handles.newFh();
    context.handles.add(fh, fid, flags, attr, target.session, 'covered');
    if (isRegular(attr.mode)) context.files.of(fid);
    return fh;
  }

  /** A lock on this inode is called back, or goes back: it covers no new handle from now on. */
  uncovered(target: TargetSession, fid: Fid): void {
    for (const handle of this.#context.handles.of(fid)) {
      // After an eviction there is nobody to tell.
      if (handle.known !== 'covered' || handle.gone) continue;
      handle.known = 'yes';
      const unreported = this.#unreported.get(target);
      if (unreported !== undefined) {
        unreported.push(handle);
        continue;
      }
      this.#unreported.set(target, [handle]);
      queueMicrotask(() => this.report(target));
    }
  }

  /**
   * An UNLINK of this name leaves next. @returns a function to call when it has ended: when it is answered, and not when its
   * caller was interrupted.
   */
  unlinking(target: TargetSession, parent: Fid, name: Name): () => void {
    const fid = this.#changing.has(keyOf(parent, name)) ? undefined : this.#context.names.get(parent, name);
    // There is no such name.
    if (fid === 0) return () => undefined;
    if (fid === undefined) {
      this.#losingAny += 1;
      for (const handle of this.#context.handles.ofTarget(target.index)) this.uncovered(target, handle.fid);
    } else {
      this.#losing.add(fid);
      this.uncovered(target, fid);
    }
    this.report(target);
    return () => {
      if (fid === undefined) this.#losingAny -= 1;
      else this.#losing.remove(fid);
    };
  }

  /** A RENAME leaves next. @returns as unlinking(). */
  renaming(target: TargetSession, { parent, name, newParent, newName }: Names): () => void {
    const replaced = this.unlinking(target, newParent, newName);
    const keys = [keyOf(parent, name), keyOf(newParent, newName)];
    for (const key of keys) this.#changing.add(key);
    return () => {
      replaced();
      for (const key of keys) this.#changing.remove(key);
    };
  }

  /** Tells the target of the handles whose locks go back. To be called before the locks go. */
  report(target: TargetSession): void {
    const unreported = this.#unreported.get(target) ?? [];
    this.#unreported.delete(target);
    const handles = unreported.filter(
      (handle) => !handle.gone && this.#context.handles.peek(handle.fh) === handle,
    );
    for (let at = 0; at < handles.length; at += REPORT_MAX) {
      const opens = handles.slice(at, at + REPORT_MAX).map(({ fid, fh, flags }) => ({ fid, fh, flags }));
      target.call('closing', ReplayOpens, { opens }).then(
        ({ reply }) => this.#context.handles.lost(reply.lost),
        // The target has evicted this client, or another instance serves, which hears of all handles.
        (error: unknown) => log('report of %d opens: %s', opens.length, error),
      );
    }
  }

  checkInvariants(): void {
    assert(this.#unreported.size === 0, 'opens whose locks go back are not reported');
    assert(this.#losingAny >= 0, `${this.#losingAny} operations that remove something`);
    const { handles, targets } = this.#context;
    for (const { fh, fid, known, life } of handles.all()) {
      if (known !== 'covered' || life.isOver) continue;
      const { locks, changes } = targets.of(fid);
      // A lock under which the client has changed something stays until that is at the target.
      const lock =
        changes.size > 0
          ? locks.find('inode', fid, 'PR', BIT_ATTR)
          : locks.match('inode', fid, 'PR', BIT_ATTR);
      assert(lock !== undefined, `the target does not know handle ${fh} on ${fid}, and no lock covers it`);
    }
  }
}
