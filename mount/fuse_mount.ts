/** A usable mount, as every driver returns it. */

import type { KernelNotifier } from '../src/fuse/handlers.js';
import type { Negotiated } from '../src/fuse/init.js';
import type { MountEntry } from './mount_table.js';

export type { Negotiated };

export interface WaitingRequest {
  readonly operation: string;
  readonly nodeid: number;
  readonly pid: number;
}

/** What a process needs beside the descriptor to serve a mount that another one has had. */
export interface ChannelState {
  readonly negotiated: Negotiated;
  /** Requests that wait, as the kernel sent them, the oldest first. */
  readonly requests: readonly Uint8Array[];
}

/** The steps of handing a mount over, in their order. */
export interface MountHandover {
  /** Of /dev/fuse; stays this mount's. */
  readonly descriptor: number;
  /** What was agreed on with the kernel. @throws FsError EAGAIN before INIT. */
  negotiated(): Negotiated;
  /** Requests that wait from now on can be handed over. Resolves when those from before have their answers. */
  keepRequests(patience: AbortSignal): Promise<void>;
  /** Reads no more. Resolves when all requests that this process has read wait before their work, or for a lock of another owner. */
  quiet(patience: AbortSignal): Promise<void>;
  /** Interrupts that are not answered come again, to whoever reads next. */
  requests(): readonly Uint8Array[];
  /**
   * The mount stays with this process.
   * @param askAgain another process may have read requests: the kernel sends again all that have no answer.
   */
  stay(askAgain: boolean): void;
}

export interface FuseMount {
  readonly driver: 'native' | 'fuse-native';
  /** Absolute, without symbolic links. */
  readonly mountpoint: string;
  readonly notifier: KernelNotifier;
  /**
   * The mount's former entry in the mount table, if it is detached (umount -l) and goes on only for processes with open
   * files.
   */
  readonly detached: MountEntry | undefined;
  /**
   * Resolves when the kernel will send no more requests, whoever unmounted. That may be a long time after unmount():
   * open files keep a detached mount alive, and so do copies of it in other mount namespaces.
   */
  readonly closed: Promise<void>;
  /** How another process takes this mount over; undefined: this driver cannot do that. */
  readonly handover: MountHandover | undefined;
  /** Requests whose handlers have not answered yet, for status. */
  waiting(): readonly WaitingRequest[];
  /**
   * Unmounts; await `closed` to know that the last request was served.
   * @param how plain (the default): fails while files are open. detach: removes the mount from sight at once; open
   *   files go on. force: unmounts at once; ends waiting requests, and open files fail from then on.
   * @throws FsError EBUSY.
   */
  unmount(how?: 'plain' | 'detach' | 'force'): Promise<void>;
}
