/** Changes what the kernel allows on an existing mount (ro, nosuid, ...). A remount cannot change options of the client. */

import { spawnSync } from 'node:child_process';
import { MOUNT_FLAG_WORDS } from '../../mount/options.js';
import { CliError } from './failure.js';

/** mount(8) adds these words from its tables: the kernel's options of a FUSE mount, and the helper of umount(8). */
const NOT_FOR_US =
  /^(user_id|group_id|rootmode|fd|max_read|blksize|default_permissions|allow_other|subtype|uhelper|helper)(=|$)/;

/** @returns the words of a remount that the kernel acts on. @throws CliError for a word that needs a new mount. */
export function remountFlags(words: readonly string[], isWithoutEffect: (word: string) => boolean): string[] {
  const flags: string[] = [];
  for (const word of words) {
    if (word === 'remount' || NOT_FOR_US.test(word) || isWithoutEffect(word)) continue;
    if (!MOUNT_FLAG_WORDS.has(word)) {
      throw new CliError(
        `${word} cannot be changed by a remount: unmount, and mount again. A remount changes ${[...MOUNT_FLAG_WORDS].join(', ')}`,
      );
    }
    flags.push(word);
  }
  return flags;
}

/** @throws CliError with the message of mount(8). */
export function remount(mountpoint: string, flags: readonly string[]): void {
  // -i: without helper, since we are the helper. mount(8) knows each flag's number, and how to tell each kernel.
  const done = spawnSync('mount', ['-i', '-o', ['remount', ...flags].join(','), mountpoint], {
    encoding: 'utf8',
  });
  if (done.error !== undefined) throw new CliError(`mount(8) cannot be run: ${done.error.message}`);
  if (done.status !== 0) throw new CliError(done.stderr.trim().replace(/^mount: /, ''));
}
