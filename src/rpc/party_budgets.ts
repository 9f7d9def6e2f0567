/**
 * A shared budget, of which no party takes all: each has one of its own beside it. Whoever takes bytes takes them from the party's
 * budget first. While it waits for that, it holds up its own party only; while it waits for the shared one it holds bytes of its
 * party, which others of the party then lack, and nobody else.
 *
 * Invariant: bytes of the shared budget are those of the parties' budgets, but for who waits for the shared one.
 */

import { ByteBudget } from '../base/budget.js';
import { andThen, isPromise, type MaybePromise } from '../base/maybe_promise.js';

/** Whose bytes they are: the connections of one key are one party. */
export interface PartyMember {
  readonly party: string;
  /** What an administrator allows the party; undefined: a part of the whole. */
  readonly partyBytes: number | undefined;
}

/** Of the shared budget. */
const PART = 0.5;

export class PartyBudgets {
  readonly shared: ByteBudget;
  readonly #partBytes: number;
  readonly #parties = new Map<string, ByteBudget>();

  /** @param part of the shared budget, for each party. */
  constructor(shared: ByteBudget, part = PART) {
    this.shared = shared;
    this.#partBytes = shared.limitBytes * part;
  }

  /** Number of those who wait. */
  get waiting(): number {
    let waiting = this.shared.waiting;
    for (const party of this.#parties.values()) waiting += party.waiting;
    return waiting;
  }

  /** Whether somebody waits for what this party has. */
  isWantedFrom({ party }: Pick<PartyMember, 'party'>): boolean {
    return this.shared.waiting > 0 || (this.#parties.get(party)?.waiting ?? 0) > 0;
  }

  /**
   * Takes the bytes, at once or when it is the caller's turn. @returns what gives them back.
   * @throws FsError EINTR (as a rejection) if the signal aborts first; it has taken nothing then.
   */
  take(member: PartyMember, bytes: number, signal?: AbortSignal): MaybePromise<() => void> {
    const own = this.#of(member);
    const give = (): void => {
      own.give(bytes);
      this.#drop(member.party, own);
    };
    return andThen(own.take(bytes, signal), () => {
      const shared = this.shared.take(bytes, signal);
      const taken = (): (() => void) => () => {
        this.shared.give(bytes);
        give();
      };
      if (!isPromise(shared)) return taken();
      return shared.then(taken, (error: unknown) => {
        give();
        throw error;
      });
    });
  }

  #of({ party, partyBytes }: PartyMember): ByteBudget {
    const limitBytes = Math.max(1, Math.min(partyBytes ?? Number.POSITIVE_INFINITY, this.#partBytes));
    let own = this.#parties.get(party);
    const isOther =
      own !== undefined && own.limitBytes !== limitBytes && own.usedBytes === 0 && own.waiting === 0;
    if (own === undefined || isOther) {
      own = new ByteBudget(`${this.shared.name} of ${party}`, limitBytes);
      this.#parties.set(party, own);
    }
    return own;
  }

  /** Names of parties are not kept for ever. */
  #drop(party: string, own: ByteBudget): void {
    if (own.usedBytes === 0 && own.waiting === 0 && this.#parties.get(party) === own)
      this.#parties.delete(party);
  }
}
