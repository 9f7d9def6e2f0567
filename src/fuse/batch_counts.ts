/**
 * Counts requests and their times, as the kernel's callers see them.
 *
 * The answers that are given while a batch is handled leave together when it ends. So each of them took as long as the batch. To read
 * the clock twice costs as much as half a request that is answered from memory, so only every eighth batch is timed: the answers
 * counted since the one before count as taking as long as that one. All answers are counted. A request that waits for its
 * handler has a time of its own.
 */

import type { OperationTimes } from '../runtime/operation_times.js';
import { OPERATIONS } from './operations.js';
import type { Request } from './request.js';

const TIMED_EVERY = 8;

export class BatchCounts {
  readonly #times: OperationTimes;
  /** Answers given since the last batch that was timed, by opcode; and the opcodes that have any. */
  readonly #answers = new Int32Array(OPERATIONS.length);
  readonly #opcodes = new Int32Array(OPERATIONS.length);
  #used = 0;
  #untimed = TIMED_EVERY;
  #beganMs = 0;
  #seconds = 0;

  constructor(times: OperationTimes) {
    this.#times = times;
    times.beforeReading(() => this.#add());
  }

  begin(): void {
    this.#untimed += 1;
    if (this.#untimed >= TIMED_EVERY) this.#beganMs = this.#times.nowMs();
  }

  /** @param errno 0: it succeeded. */
  answered(request: Request, errno: number): void {
    const { opcode } = request;
    if (errno !== 0) this.#times.failed(opcode, errno);
    if (request.waited) {
      this.#times.took(opcode, (this.#times.nowMs() - request.beganMs) / 1000);
      return;
    }
    // What is no operation on files may have a higher opcode: it is not counted.
    if (opcode >= this.#answers.length) return;
    const before = this.#answers[opcode] as number;
    this.#answers[opcode] = before + 1;
    if (before > 0) return;
    this.#opcodes[this.#used] = opcode;
    this.#used += 1;
  }

  end(): void {
    if (this.#untimed < TIMED_EVERY) return;
    this.#untimed = 0;
    this.#seconds = (this.#times.nowMs() - this.#beganMs) / 1000;
    this.#add();
  }

  #add(): void {
    for (let at = 0; at < this.#used; at++) {
      const opcode = this.#opcodes[at] as number;
      this.#times.took(opcode, this.#seconds, this.#answers[opcode]);
      this.#answers[opcode] = 0;
    }
    this.#used = 0;
  }
}
