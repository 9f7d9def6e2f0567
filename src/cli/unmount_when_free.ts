/**
 * SIGTERM to a client whose mount is busy: it says which processes hold the mount, and tries again until the last file
 * is closed. The kernel sends no event when a mount is no longer busy, so it is tried every few hundred milliseconds.
 */

import type { FuseMount } from '../../mount/fuse_mount.js';
import { holdersOf } from '../../mount/holders.js';
import { FsError } from '../base/errno.js';
import type { Timers } from '../runtime/ports.js';
import { sleep } from '../runtime/ports.js';
import { describeFailure } from './common.js';

const AGAIN_MS = 200;
const NAMED_HOLDERS = 10;

export interface UnmountWhenFree {
  readonly kernel: Pick<FuseMount, 'mountpoint' | 'unmount'>;
  readonly timers: Timers;
  /** Begins to write everything to the server. */
  readonly writeBack: () => void;
  readonly says: (line: string) => void;
}

/** @returns what is called for each signal; one attempt goes on at a time. */
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

async function attempts({ kernel, timers, writeBack, says }: UnmountWhenFree): Promise<void> {
  let said = '';
  while (await isBusy(kernel)) {
    // What programs still write follows; it must not wait for the last of them to close.
    writeBack();
    const holders = holdersOf(kernel.mountpoint);
    const more = holders.length > NAMED_HOLDERS ? ` and ${holders.length - NAMED_HOLDERS} more` : '';
    const named = holders.slice(0, NAMED_HOLDERS).join(', ');
    const text = `${kernel.mountpoint} is in use by ${named === '' ? 'a process that cannot be seen from here' : named}${more}`;
    if (text !== said) says(`${text}; unmounts when it is free`);
    said = text;
    await sleep(timers, AGAIN_MS);
  }
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
