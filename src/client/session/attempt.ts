/**
 * One connection to a server, from its opening to its end: sends CONNECT, and watches whether the server still lives.
 *
 * CONNECT has a requester of its own: calls that wait in the target's requester must not go out before CONNECT is answered.
 */

import { FsError } from '../../base/errno.js';
import type { Frame } from '../../rpc/api.js';
import type { FrameLink } from '../../rpc/link.js';
import { type Pinger, startPinger } from '../../rpc/pinger.js';
import { Requester } from '../../rpc/requester.js';
import type { Runtime, Timer } from '../../runtime/ports.js';
import { Connect, type ConnectReply, type ConnectRequest } from '../../wire/session.js';

/**
 * The pinger looks this often, or more often if the server asks for that. The client gives a server up that sends nothing for
 * PING_LOOKS looks: 4 to 5 s after its last sign. A standby takes as long to be sure that the other server is gone.
 */
const PING_MS = 1000;
const PING_LOOKS = 4;

export class Attempt {
  readonly link: FrameLink;
  readonly #runtime: Runtime;
  readonly #requester = new Requester();
  /** Runs until CONNECT is answered. */
  #patience: Timer | undefined;
  #pinger: Pinger | undefined;
  #reply: ConnectReply | undefined;
  #silent = false;

  constructor(runtime: Runtime, link: FrameLink) {
    this.#runtime = runtime;
    this.link = link;
  }

  /** CONNECT's answer. */
  get reply(): ConnectReply | undefined {
    return this.#reply;
  }

  /** The client gave the connection up because nothing came from the server. */
  get isSilent(): boolean {
    return this.#silent;
  }

  /**
   * Sends CONNECT.
   * @param answered called in the turn in which the client handles the reply: frames behind it find the state that it brought.
   * @throws FsError of the reply, ENOTCONN when the connection ends before the reply.
   */
  async connect(
    request: ConnectRequest,
    patienceMs: number,
    answered: (reply: ConnectReply) => void,
  ): Promise<void> {
    this.#patience = this.#runtime.timers.after(patienceMs, () => this.#giveUp());
    this.#requester.attach(this.link, { resend: false });
    await this.#requester.call(Connect, request, {
      connectionOnly: true,
      apply: ({ reply }) => {
        this.#patience?.cancel();
        this.link.protocol = reply.protocol;
        this.#reply = reply;
        answered(reply);
      },
    });
  }

  /** Takes a reply that came before the client has handled CONNECT's reply. */
  answer(frame: Frame): void {
    this.#requester.reply(frame);
  }

  /** From now on the client gives the connection up if the server falls silent. */
  watch(intervalMs: number | undefined, ping: () => void): void {
    this.#pinger = startPinger(this.#runtime, {
      link: this.link,
      intervalMs: Math.min(intervalMs ?? PING_MS, PING_MS),
      silentLooks: PING_LOOKS,
      ping,
      dead: () => this.#giveUp(),
    });
  }

  /** The connection has ended, or the client does not use it any more. Idempotent. */
  ended(): void {
    this.#patience?.cancel();
    this.#pinger?.stop();
    this.#requester.detach();
  }

  /** Nothing comes from the server: its process is stopped, or its machine or the network path to it is gone. */
  #giveUp(): void {
    this.#silent = true;
    this.link.destroy(new FsError('ETIMEDOUT', `${this.link.peer} does not answer`));
  }
}
