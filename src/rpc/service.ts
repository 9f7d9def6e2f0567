/**
 * Service: the operations that one side answers.
 *
 * - The service decodes, handles and answers a request in one turn if its handler needs no promise. If the handler
 *   does, Incoming.answer() keeps replies in the order of execution.
 * - The service answers whatever a peer sends: EPROTO for a body that does not fit its message or a notice that should
 *   be a request, EOPNOTSUPP for an unknown opcode. It logs a handler's bug with its stack and answers EIO.
 * - Backpressure: the bulk of a request counts against a budget from here until the request is answered. While the
 *   budget is used up, the server does not read the link. Only bulks count, never requests: a WRITE waits for no lock,
 *   so whatever holds the budget always ends. If ENQUEUEs counted, a CANCEL stuck behind them would wait for itself.
 *   One connection takes at most LINK_BULK_BYTES at a time, and one party a part of all (party_budgets.ts), so that they leave
 *   room for others.
 * - The service closes a peer that has more unanswered requests than any client would have (for their bytes see
 *   waiting_requests.ts).
 * - While a request waits, only its decoded form is kept: its body is a view that would keep more memory of the
 *   connection.
 * - The memory of a bulk is used again after its handler has succeeded, so a handler keeps no view of it.
 */

import { ByteBudget } from '../base/budget.js';
import { errnoOf, FsError } from '../base/errno.js';
import type { Transno } from '../base/ids.js';
import { bugLogger, logger } from '../base/log.js';
import { andThen, isPromise, type MaybePromise } from '../base/maybe_promise.js';
import type { SlabPool } from '../base/slab_pool.js';
import type { OperationTimes } from '../runtime/operation_times.js';
import type { Waits } from '../runtime/ports.js';
import { KIND } from '../wire/header.js';
import { Empty, ErrorReply, type Operation } from '../wire/operation.js';
import { decode, encode } from '../wire/schema.js';
import type { Frame, Handler, HandlerOutcome, Incoming, Link, ServiceApi, ServiceHooks } from './api.js';
import type { PartyBudgets } from './party_budgets.js';
import type { WaitingRequests } from './waiting_requests.js';

const log = logger('rpc:service');
const bug = bugLogger('rpc:service');

export const UNANSWERED_MAX = 65_536;
/** Limit of one connection: several times what a client has in flight. */
const LINK_BULK_BYTES = 64 << 20;
const ERROR_TEXT_MAX = 500;
const NO_TRANSNO = 0 as Transno;
const NO_BULK: readonly Uint8Array[] = [];

export interface ServiceOptions {
  /** Counts the bulks of requests that are being handled, over all links. Default: not limited. */
  readonly bulkBudget?: PartyBudgets;
  /** Counts the requests that wait. Default: not limited. */
  readonly waiting?: WaitingRequests;
  /** Default UNANSWERED_MAX. */
  readonly unansweredMax?: number;
  /** Where the memory of bulks goes when their requests are done. */
  readonly slabs?: SlabPool;
}

/** For the log of slow operations. */
export interface Follow<Context> {
  readonly waits: Waits;
  /** Who asks, for people. */
  readonly whose: (context: Context) => string;
}

interface Entry<Context> {
  readonly operation: Operation<unknown, unknown>;
  readonly handler: Handler<Context, unknown, unknown>;
}

export class Service<Context> implements ServiceApi<Context> {
  readonly #entries = new Map<number, Entry<Context>>();
  readonly #bulkBudget: PartyBudgets | undefined;
  readonly #linkBudgets = new WeakMap<Link, ByteBudget>();
  readonly #waiting: WaitingRequests | undefined;
  readonly #unansweredMax: number;
  readonly #slabs: SlabPool | undefined;
  readonly #times: OperationTimes | undefined;
  readonly #follow: Follow<Context> | undefined;
  /** Requests of each link whose handlers have not answered. */
  readonly #unanswered = new WeakMap<Link, number>();

  /** @param times counts what is answered. @param follow follows what is handled. Default: nobody does. */
  constructor(options: ServiceOptions = {}, times?: OperationTimes, follow?: Follow<Context>) {
    this.#bulkBudget = options.bulkBudget;
    this.#waiting = options.waiting;
    this.#unansweredMax = options.unansweredMax ?? UNANSWERED_MAX;
    this.#slabs = options.slabs;
    this.#follow = follow?.waits.isOn === true ? follow : undefined;
    this.#times = times;
  }

  on<Q, R>(operation: Operation<Q, R>, handler: Handler<Context, Q, R>): void {
    this.#entries.set(operation.opcode, { operation, handler } as unknown as Entry<Context>);
  }

  dispatch(context: Context, link: Link, frame: Frame, hooks: ServiceHooks): void {
    const bulkBytes = frame.bulk.length;
    const budget = this.#bulkBudget;
    if (budget === undefined || bulkBytes === 0) {
      this.#handle(context, link, frame, hooks, undefined);
      return;
    }
    const own = this.#linkBudget(link);
    const giver = (give: () => void) => (): void => {
      give();
      own.give(bulkBytes);
    };
    // The link takes from its own budget first. While it waits for the shared ones it is not read, so it holds up only
    // itself and its party.
    const room = andThen(own.take(bulkBytes), () => budget.take(link, bulkBytes));
    if (!isPromise(room)) {
      this.#handle(context, link, frame, hooks, giver(room));
      return;
    }
    log('%s is not read until %s has room', link.peer, budget.shared.name);
    link.pause(true);
    void room.then((give) => {
      if (link.isClosed) giver(give)();
      else this.#handle(context, link, frame, hooks, giver(give));
      link.resume();
    });
  }

  #linkBudget(link: Link): ByteBudget {
    let budget = this.#linkBudgets.get(link);
    if (budget === undefined) {
      budget = new ByteBudget('bulks of a connection', LINK_BULK_BYTES);
      this.#linkBudgets.set(link, budget);
    }
    return budget;
  }

  #handle(
    context: Context,
    link: Link,
    frame: Frame,
    hooks: ServiceHooks,
    done: (() => void) | undefined,
  ): void {
    const entry = this.#entries.get(frame.header.opcode);
    const exchange = new Exchange(link, frame, hooks, entry?.operation, done, this.#times);
    if (log.enabled) {
      log('%s %s xid %d', link.peer, entry?.operation.name ?? frame.header.opcode, frame.header.xid);
    }
    let outcome: MaybePromise<HandlerOutcome<unknown> | undefined>;
    try {
      if (entry === undefined) throw new FsError('EOPNOTSUPP', `unknown opcode ${frame.header.opcode}`);
      if (entry.operation.notice !== (frame.header.kind === KIND.notice)) {
        // A request that nobody answers would keep what its reply gives back: locks, the count of changes.
        throw new FsError('EPROTO', `${entry.operation.name}: a notice and a request are not the same`);
      }
      const request = decode(entry.operation.request, frame.body);
      outcome =
        this.#follow === undefined
          ? entry.handler(context, request, exchange)
          : this.#followed(this.#follow, entry, context, request, exchange);
    } catch (error) {
      exchange.fail(error);
      return;
    }
    if (!isPromise(outcome)) {
      if (exchange.finish(outcome)) this.#slabs?.give(frame.bulk);
      return;
    }
    this.#wait(link, frame.body.length, exchange, outcome);
  }

  #followed(
    { waits, whose }: Follow<Context>,
    { operation, handler }: Entry<Context>,
    context: Context,
    request: unknown,
    exchange: Exchange,
  ): MaybePromise<HandlerOutcome<unknown> | undefined> {
    const { fid } = request as { readonly fid?: unknown };
    const what = typeof fid === 'number' ? ` of inode ${fid}` : '';
    return waits.track(
      () => `${operation.name}${what} for ${whose(context)}`,
      () => handler(context, request, exchange),
    );
  }

  /**
   * Takes the length of the body and not the frame: whatever the closures here name stays in memory while the request
   * waits.
   */
  #wait(
    link: Link,
    bodyBytes: number,
    exchange: Exchange,
    outcome: Promise<HandlerOutcome<unknown> | undefined>,
  ): void {
    const waiting = (this.#unanswered.get(link) ?? 0) + 1;
    this.#unanswered.set(link, waiting);
    if (waiting > this.#unansweredMax) {
      link.destroy(new FsError('EPROTO', `more than ${this.#unansweredMax} unanswered requests`));
    }
    const taken = this.#waiting?.take(link, bodyBytes) ?? 0;
    const ended = (): void => {
      this.#unanswered.set(link, (this.#unanswered.get(link) ?? 1) - 1);
      this.#waiting?.give(link, taken);
    };
    outcome.then(
      (value) => {
        ended();
        if (exchange.finish(value)) this.#slabs?.give(exchange.bulk);
      },
      (error) => {
        ended();
        exchange.fail(error);
      },
    );
  }
}

/** One request and its reply. Ensures that there is exactly one reply. */
class Exchange implements Incoming {
  readonly header: Frame['header'];
  readonly bulk: Buffer;
  readonly #link: Link;
  readonly #hooks: ServiceHooks;
  readonly #operation: Operation<unknown, unknown> | undefined;
  readonly #done: (() => void) | undefined;
  readonly #times: OperationTimes | undefined;
  readonly #beganMs: number;
  #answered = false;

  constructor(
    link: Link,
    frame: Frame,
    hooks: ServiceHooks,
    operation: Operation<unknown, unknown> | undefined,
    done: (() => void) | undefined,
    times: OperationTimes | undefined,
  ) {
    // A peer that asks for what there is not gets no family of its own.
    this.#times = operation === undefined ? undefined : times;
    this.#beganMs = this.#times?.nowMs() ?? 0;
    this.header = frame.header;
    this.bulk = frame.bulk;
    this.#link = link;
    this.#hooks = hooks;
    this.#operation = operation;
    this.#done = done;
  }

  answer(outcome: HandlerOutcome<unknown>): void {
    if (this.#answered) {
      throw new Error(`${this.#name} was answered twice`);
    }
    const operation = this.#operation;
    if (operation === undefined) throw new Error('an unknown operation was answered');
    // Encodes first: if that fails, the request is still unanswered and gets EIO.
    const body = this.header.kind === KIND.notice ? undefined : this.#body(operation, outcome);
    this.#answered = true;
    this.#times?.ended(this.header.opcode, this.#beganMs, 0);
    if (body !== undefined) {
      this.#reply(0, outcome.transno ?? NO_TRANSNO, body, outcome.bulk ?? NO_BULK, outcome.sent);
    }
  }

  #body(operation: Operation<unknown, unknown>, { reply }: HandlerOutcome<unknown>): Buffer {
    return this.#hooks.isBodyless === true ? encode(Empty, {}) : encode(operation.reply, reply);
  }

  /**
   * The handler has finished.
   * @param outcome undefined: the handler has called answer() itself.
   * @returns whether it succeeded, so that nothing it began is under way any more.
   */
  finish(outcome: HandlerOutcome<unknown> | undefined): boolean {
    try {
      if (outcome !== undefined) this.answer(outcome);
      else if (!this.#answered && this.header.kind !== KIND.notice)
        throw new Error(`${this.#name} was not answered`);
    } catch (error) {
      this.fail(error);
      return false;
    }
    this.#done?.();
    return true;
  }

  /** The handler threw. */
  fail(error: unknown): void {
    this.#done?.();
    const expected = error instanceof FsError;
    if (!expected) bug('%s: %O', this.#name, error);
    if (this.#answered) {
      if (expected) log('%s failed after its answer: %s', this.#name, error.message);
      return;
    }
    if (this.header.kind === KIND.notice) {
      if (expected) log('notice %s from %s: %s', this.#name, this.#link.peer, error.message);
      return;
    }
    this.#answered = true;
    this.#times?.ended(this.header.opcode, this.#beganMs, errnoOf(error));
    const text = expected
      ? error.message.slice(0, ERROR_TEXT_MAX)
      : 'internal error, see the log of the server';
    this.#reply(errnoOf(error), NO_TRANSNO, encode(ErrorReply, { text }), NO_BULK);
  }

  get #name(): string {
    return this.#operation?.name ?? `opcode ${this.header.opcode}`;
  }

  #reply(
    errno: number,
    transno: Transno,
    body: Buffer,
    bulk: readonly Uint8Array[],
    sent?: () => void,
  ): void {
    this.#hooks.onReply?.(this.header, { errno, transno, body, bulk });
    this.#link.send(
      {
        kind: KIND.reply,
        opcode: this.header.opcode,
        errno,
        xid: this.header.xid,
        ackXidOrCommitted: this.#hooks.lastCommitted(),
        transno,
      },
      body,
      bulk,
      sent,
    );
  }
}
