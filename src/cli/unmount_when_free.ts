/**
 * If SIGTERM comes to a client whose mount is busy, the client says which processes hold the mount, and tries again until the
 * last file is closed. The kernel sends no event when a mount is no longer busy, so the client tries every 200 ms.
 *
 * A mount that a user detached (umount -l) is in no table any more, and nothing is left to unmount. The client writes its data
 * back all the same, and says which processes hold the mount until the kernel ends it.
 */

import type { FuseMount } from '../../mount/fuse_mount.js';
import { holdersOf, holdersOfDetached, named } from '../../mount/holders.js';
import type { MountEntry } from '../../mount/mount_table.js';
import { FsError } from '../base/errno.js';
import type { Timers } from '../runtime/ports.js';
import { sleep } from '../runtime/ports.js';
import { describeFailure } from './failure.js';

const AGAIN_MS = 200;
/** For a detached mount. The kernel tells its end, so only the names of its holders may be out of date. */
const DETACHED_AGAIN_MS = 1000;

export interface UnmountWhenFree {
  readonly kernel: Pick<FuseMount, 'mountpoint' | 'unmount' | 'detached' | 'closed'>;
  readonly timers: Timers;
  /** Begins to write everything to the server. */
  readonly writeBack: () => void;
  readonly says: (line: string) => void;
}

/** @returns a function to call for each signal; only one attempt goes on at a time. */
export function unmountWhenFree(options: UnmountWhenFree): () => void {
  let trying = false;
  return () => {
    if (trying) return;
    trying = true;
    attempts(options)
      .catch((thrown: unknown) => options.says(describeFailure(thrown).line))
      .finally(() => {
        trying = false;
      });
  };
}

async function attempts(options: UnmountWhenFree): Promise<void> {
  const { kernel, timers, writeBack, says } = options;
  let isClosed = false;
  const closed = kernel.closed.then(() => {
    isClosed = true;
  });
  let said = '';
  for (;;) {
    const { detached } = kernel;
    const held = detached === undefined ? await whileBusy(options) : whileDetached(detached);
    if (held === undefined || isClosed) return;
    // Later writes follow by themselves; the data written so far must not wait until the last program closes.
    writeBack();
    const text = `${kernel.mountpoint} ${held}`;
    if (text !== said) says(text);
    said = text;
    await Promise.race([closed, sleep(timers, detached === undefined ? AGAIN_MS : DETACHED_AGAIN_MS)]);
  }
}

/** @returns the text to say; undefined: the mount is gone. */
async function whileBusy({ kernel }: UnmountWhenFree): Promise<string | undefined> {
  if (!(await isBusy(kernel))) return undefined;
  return `is in use by ${named(holdersOf(kernel.mountpoint))}; unmounts when it is free`;
}

/** Nothing is left to unmount: the kernel ends the mount with the last close. */
function whileDetached(entry: MountEntry): string {
  return `was detached, and is in use by ${named(holdersOfDetached(entry))}; ends when it is free`;
}

async function isBusy(kernel: UnmountWhenFree['kernel']): Promise<boolean> {
  try {
    await kernel.unmount('plain');
    return false;
  } catch (thrown) {
    if (thrown instanceof FsError && thrown.code === 'EBUSY') return true;
    throw thrown;
  }
}
