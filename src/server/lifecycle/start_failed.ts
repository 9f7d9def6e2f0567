/**
 * Handles a start that fails after begin(): gives the target back the version and the clean mark that it had, so that
 * the version before can start again. If the devices refuse that, the error says how to go on.
 */

import { FsError } from '../../base/errno.js';
import { logger } from '../../base/log.js';
import type { Superblock, TargetStore } from '../../storage/api.js';

const log = logger('server');

/** @returns the error to show. */
export async function startFailed(
  store: TargetStore,
  previous: Superblock,
  softwareVersion: string,
  thrown: unknown,
): Promise<unknown> {
  // Nothing was written, or begin() itself reports the failure.
  if (store.superblock.instance === previous.instance && !(await hasFailed(store))) return thrown;
  try {
    await store.takeBack();
    log('the start failed, version and clean mark are those of before: %O', thrown);
    return thrown;
  } catch (error) {
    log('the start failed and could not be taken back: %O', error);
  }
  const failure = thrown instanceof FsError ? thrown : new FsError('EIO', String(thrown), { cause: thrown });
  if (!previous.clean || previous.softwareVersion === softwareVersion) return failure;
  return new FsError(
    failure.code,
    `${failure.message}; the target may name version ${softwareVersion} as its last one now: when the device works again, ` +
      `start version ${softwareVersion} and stop it with 'holdfast shutdown' before version ${previous.softwareVersion}`,
    { cause: failure },
  );
}

function hasFailed(store: TargetStore): Promise<boolean> {
  return Promise.race([store.failed.then(() => true), Promise.resolve(false)]);
}
