/** The page of a server. */

import type { ServerPageView } from '../shapes.js';
import { Charts } from './charts.js';
import { byId, setAttribute, setPairs, setRows, setText } from './dom.js';
import { follow } from './live.js';

const CLIENT_COLUMNS = ['', '', '', 'number', 'version', 'number wide', 'number wide'];
const OPERATION_COLUMNS = ['', 'number', 'number', 'number'];
const EVICTION_COLUMNS = ['', '', '', 'number'];

const charts = new Charts(byId('charts'));

function render(view: ServerPageView): void {
  charts.show(view.points);
  setRows(
    byId('clients'),
    view.clients.map(({ key, name, state, tone, waits, dirty, version, opens, locks }) => ({
      key,
      cells: [name, { tone, text: state }, waits, dirty, version, String(opens), String(locks)],
    })),
    CLIENT_COLUMNS,
  );
  setText(byId('clients-text'), view.clientsText);
  setRows(byId('operations'), view.operations, OPERATION_COLUMNS);
  setText(byId('operations-text'), view.operations.length === 0 ? 'None.' : '');
  setRows(byId('evictions'), view.evictions, EVICTION_COLUMNS);
  setText(byId('evictions-text'), view.evictions.length === 0 ? 'None.' : '');
  setPairs(byId('facts'), view.facts);
  byId('space').hidden = view.space === undefined;
  setText(byId('space-text'), view.space?.text ?? '');
  setAttribute(byId('space-fill'), 'width', String((view.space?.share ?? 0) * 100));
}

follow<ServerPageView>({
  render,
  waits: () => charts.wait(),
  lostText: (last) =>
    last?.state === 'shutting down' || last?.state === 'stopped'
      ? 'The server has shut down, and the next one does not answer yet'
      : 'The server does not answer',
});
