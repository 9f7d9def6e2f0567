/**
 * A mount or a server whose metrics and lists a command shows: through the control socket of a mount, or through one connection as
 * administrator.
 */

import { existsSync } from 'node:fs';
import { FsError } from '../base/errno.js';
import type { Answer } from '../rpc/api.js';
import { Holdings, type HoldingsReply, Metrics } from '../wire/admin.js';
import type { Operation } from '../wire/operation.js';
import type { AdminConnection } from './admin.js';
import { parseServer } from './common.js';
import { askControl, type ControlRequest, mountpointPath, nobodyServes } from './control.js';
import { CliError } from './failure.js';
import { isServedHere } from './local_servers.js';

/** Whether the user names a server and not a mount point. A folder of that name is ./NAME. */
export function namesServer(what: string): boolean {
  const looksLikeAddress = /^(\[[0-9a-fA-F:.]+\]|[^/:]+):\d+$|^unix:\//.test(what) && !existsSync(what);
  return looksLikeAddress || isServedHere(what);
}

export class Source {
  readonly #what: string;
  readonly #admin: AdminConnection | undefined;

  private constructor(what: string, admin: AdminConnection | undefined) {
    this.#what = what;
    this.#admin = admin;
  }

  static async open(what: string, key: string | undefined): Promise<Source> {
    if (!namesServer(what)) return new Source(what, undefined);
    const { connectAdmin } = await import('./admin.js');
    return new Source(what, await connectAdmin(parseServer(what), { key }));
  }

  get side(): 'server' | 'client' {
    return this.#admin === undefined ? 'client' : 'server';
  }

  /** In Prometheus' text format. */
  async metrics(): Promise<string> {
    if (this.#admin === undefined) {
      return ((await this.ask({ command: 'metrics' })) as { readonly text: string }).text;
    }
    return Buffer.from((await this.#call(this.#admin, Metrics, {})).bulk).toString();
  }

  async holdings(what: 'locks' | 'opens', limit: number): Promise<HoldingsReply> {
    if (this.#admin === undefined) {
      return (await this.ask({ command: 'holdings', what, limit })) as HoldingsReply;
    }
    return (await this.#call(this.#admin, Holdings, { what, limit })).reply;
  }

  async #call<Q, R>(
    { requester }: AdminConnection,
    operation: Operation<Q, R>,
    request: Q,
  ): Promise<Answer<R>> {
    try {
      return await requester.call(operation, request);
    } catch (thrown) {
      // A server from before this operation ends the connection.
      if (!(thrown instanceof FsError) || thrown.code !== 'ENOTCONN') throw thrown;
      throw new CliError(`${this.#what} does not answer this question: its version may be older`, 1, {
        cause: thrown,
      });
    }
  }

  /** Of a mount: what its client process answers. @throws CliError if nobody serves this mount point. */
  async ask(request: ControlRequest): Promise<unknown> {
    const answer = await askControl(mountpointPath(this.#what), request);
    if (answer === undefined) {
      throw nobodyServes(this.#what);
    }
    return answer.data;
  }

  close(): void {
    this.#admin?.close();
  }
}
