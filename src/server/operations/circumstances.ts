/** Facts that the rules (src/rules) need, and that the server knows and the store does not have. */

import type { Timespec } from '../../base/attr.js';
import type { Circumstances } from '../../rules/inode_edits.js';
import { fateOfNameless } from '../target/orphans.js';
import type { ServedCall } from '../target/served_call.js';

/** What a request brings if it is a replay. */
export interface FirstTime {
  readonly time?: Timespec | undefined;
  readonly position?: number | undefined;
}

/** Of an operation in a BATCH: its client has told its programs the time already, so it is obeyed at the first execution too. */
export function batchedCircumstances(
  call: ServedCall,
  time: Timespec,
  position: number | undefined,
  fateOf: Circumstances['fateOf'],
): Circumstances {
  // A rename that moves nothing has no position.
  return { now: time, position: call.isReplay && position !== 0 ? position : undefined, fateOf };
}

export function circumstancesOf(call: ServedCall, { time, position }: FirstTime): Circumstances {
  return {
    now: call.time(time),
    position: call.isReplay ? position : undefined,
    fateOf: (fid) => fateOfNameless(call.target, fid),
  };
}
