/**
 * Inodes that have lost their last name: which of them the kernel still refers to, and what to drop of those that are gone.
 *
 * The server asks about an inode that has neither a name nor a handle (NAMELESS). If the kernel refers to it, this client
 * holds it until the kernel's FORGET, and calls on it succeed as on a local filesystem. When the server has destroyed the inode
 * (GONE), nobody will ever read what is dirty in it. A server from before FEATURE.holds destroys the inode at once: then the
 * client drops what it keeps of it as soon as the last name is gone.
 */

import type { Fid } from '../../base/ids.js';
import type { ClientContext } from '../cache/context.js';
import type { WriteBack } from '../io/write_back.js';
import { ACROSS_SESSIONS, type TargetSession } from '../session/target_session.js';

export class HeldInodes {
  readonly #context: ClientContext;
  readonly #writeBack: WriteBack;
  readonly #held = new Set<Fid>();

  constructor(context: ClientContext, writeBack: WriteBack) {
    this.#context = context;
    this.#writeBack = writeBack;
  }

  /** An operation of ours has taken the last name away. */
  unlinked(target: TargetSession, fid: Fid): void {
    this.#context.names.drop(fid);
    if (!target.holdsUsed) this.gone(target, fid);
  }

  /** The last close of a handle of ours. */
  closed(target: TargetSession, fid: Fid): void {
    if (target.holdsUsed || this.#context.handles.isOpen(fid)) return;
    if (this.#context.attrs.get(fid)?.nlink === 0) this.gone(target, fid);
  }

  /**
   * Answers in the turn after the question came: a reply that came before the question, and brings the kernel a reference, is
   * counted by then.
   * @returns the inodes that the kernel refers to.
   */
  async nameless(fids: readonly Fid[]): Promise<Fid[]> {
    await ACROSS_SESSIONS.wait(
      new Promise<void>((resolve) => {
        this.#context.runtime.timers.soon(resolve);
      }),
    );
    const held = fids.filter((fid) => this.#context.kernel.refersTo(fid));
    for (const fid of held) this.#held.add(fid);
    return held;
  }

  /** The inodes that the client holds. */
  all(): Fid[] {
    return [...this.#held];
  }

  /** The process from which this one has taken the mount over held them. */
  takeOver(fids: readonly Fid[]): void {
    for (const fid of fids) this.#held.add(fid);
  }

  /** The kernel does not refer to the inode any more. */
  forgotten(fid: Fid): void {
    if (this.#held.delete(fid)) this.#context.targets.of(fid).outgoing.release(fid);
  }

  /** The inode is destroyed. Without a handle nobody will ever read what is dirty in it. */
  gone(target: TargetSession, fid: Fid): void {
    const context = this.#context;
    this.#held.delete(fid);
    context.names.drop(fid);
    if (context.handles.isOpen(fid)) return;
    const file = context.files.get(fid);
    if (file !== undefined) {
      context.dropPages(target, file);
      this.#writeBack.dropped(file);
    }
    context.dropUnlinked(target, fid);
  }
}
