/** Facts that the rules (src/rules) need, and that the server knows and the store does not have. */

import type { Timespec } from '../../base/attr.js';
import type { Circumstances } from '../../rules/inode_edits.js';
import { fateOfNameless } from '../target/orphans.js';
import type { ServedCall } from '../target/served_call.js';

/** @param time the time in the request, if it is a replay. */
export function circumstancesOf(call: ServedCall, time: Timespec | undefined): Circumstances {
  return { now: call.time(time), fateOf: (fid) => fateOfNameless(call.target, fid) };
}
