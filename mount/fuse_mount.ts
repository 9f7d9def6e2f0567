/** A usable mount, as every driver returns it. */

import type { KernelNotifier } from '../src/fuse/handlers.js';
import type { MountEntry } from './mount_table.js';

export interface WaitingRequest {
  readonly operation: string;
  readonly nodeid: number;
  readonly pid: number;
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
