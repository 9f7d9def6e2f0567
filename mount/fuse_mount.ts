/** What every driver gives: a mount that is usable. */

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
  /** Set while it is in no table any more (umount -l) and goes on for who has files open: what it was there. */
  readonly detached: MountEntry | undefined;
  /**
   * Resolves when the kernel will send no more requests, whoever unmounted. That may be long after unmount(): open
   * files keep a detached mount alive, and so do copies of it in other mount namespaces.
   */
  readonly closed: Promise<void>;
  /** Requests whose handlers have not answered yet, for status. */
  waiting(): readonly WaitingRequest[];
  /**
   * Takes the mount away; await `closed` to know that the last request was served.
   * @param how plain (the default): refused while files are open. detach: out of sight at once, files that are open go
   *   on. force: at once; requests that wait are ended, and what is open fails from then on.
   * @throws FsError EBUSY.
   */
  unmount(how?: 'plain' | 'detach' | 'force'): Promise<void>;
}
