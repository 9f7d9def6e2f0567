/** What the rules (src/rules) cannot read from the store, and the server knows. */

import type { Timespec } from '../../base/attr.js';
import type { Circumstances } from '../../rules/inode_edits.js';
import { fateOfNameless } from '../target/orphans.js';
import type { ServedCall } from '../target/served_call.js';

/** @param time the request's, for replays. */
export function circumstancesOf(call: ServedCall, time: Timespec | undefined): Circumstances {
  return { now: call.time(time), fateOf: (fid) => fateOfNameless(call.target, fid) };
}
