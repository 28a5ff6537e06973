// A resident in front of the client's page: drives Chromium as internal/e2e's
// resident_test.go asks. It reads a plan of JSON from its first line of standard input,
// and further words that the test says, one a line; it answers with one word a line, and
// with a line "! ..." for whatever is wrong.
import { createRequire } from 'node:module';
import { createInterface } from 'node:readline';
import { readFileSync } from 'node:fs';
import { join } from 'node:path';

const modules = createRequire(join(process.env.BUSEL_BROWSER_TOOLS, 'package.json'));
const { chromium } = modules('playwright-core');
const axe = readFileSync(modules.resolve('axe-core/axe.min.js'), 'utf8');

const lines = createInterface({ input: process.stdin })[Symbol.asyncIterator]();
const heard = async () => {
  const { value, done } = await lines.next();
  if (done) throw new Error('the test has ended');
  return value;
};
const say = word => process.stdout.write(word + '\n');
const wrong = text => say('! ' + String(text).replaceAll('\n', ' '));
const plan = JSON.parse(await heard());

const args = ['--no-sandbox', '--disable-gpu', '--disable-background-networking', '--disable-component-update'];
if (plan.video) args.push('--use-fake-device-for-media-stream', '--use-fake-ui-for-media-stream', '--use-file-for-fake-video-capture=' + plan.video);
const browser = await chromium.launch({ executablePath: plan.chromium, args });

// open is a page of the client in a new profile.
async function open(link, options) {
  const context = await browser.newContext({ locale: plan.language, permissions: plan.video ? ['camera'] : [], ...options });
  const page = await context.newPage();
  page.setDefaultTimeout(plan.patience);
  const asked = [];
  page.on('request', r => {
    const u = new URL(r.url());
    if (u.protocol === 'data:' || u.protocol === 'blob:') return;
    asked.push(u.pathname);
    if (u.origin !== new URL(link).origin) wrong('the page asks ' + u.origin);
  });
  page.on('pageerror', e => wrong('the script fails: ' + e));
  page.on('console', m => { if (['error', 'warning'].includes(m.type()) && !plan.quiet && !m.text().includes('422')) // an answer that names an error
       wrong('the console says: ' + m.text()); });
  await page.goto(link);
  await page.waitForFunction(() => !['', 'starting'].includes(document.getElementById('state').dataset.phase));
  const requests = asked.filter((p, i) => p !== '/api/state' || asked.indexOf(p) === i).length;
  if (requests > plan.requests) wrong(`${requests} requests before the page shows anything: ${asked}`);
  if (new URL(page.url()).search || new URL(page.url()).hash) wrong('the address keeps ' + page.url());
  return page;
}
const phase = (page, want, timeout) => page.waitForFunction(w => document.getElementById('state').dataset.phase === w, want, { timeout: timeout || plan.patience });
const text = (page, id) => page.locator('#' + id).textContent();

// judge looks at what is shown: whether everybody can use it, and whether it fits.
let pictures = 0;
async function judge(page, name) {
  await page.evaluate(axe);
  const { violations } = await page.evaluate(() => axe.run({ resultTypes: ['violations'] }));
  for (const v of violations) {
    if (['serious', 'critical'].includes(v.impact)) wrong(`${name}: axe finds ${v.id} (${v.impact}): ${v.nodes.map(n => n.html).join(' | ').slice(0, 300)}`);
  }
  for (const dir of ['rtl', document_dir]) {
    const over = await page.evaluate(d => { document.documentElement.dir = d; return document.documentElement.scrollWidth - innerWidth; }, dir);
    if (over > 0) wrong(`${name}: ${over} pixels too wide, written ${dir}`);
  }
  const bare = await page.evaluate(() => document.body.innerText.match(/\b[a-z]+\.[a-z]+(\.[a-z0-9]+)?\b(?<!client\.toml|proxy\.pac|client\.exe)|\{\w+\}|undefined|\[object|NaN|\bfalse\b/)?.[0]);
  if (bare) wrong(`${name}: shows "${bare}"`);
  if (plan.pictures) await page.screenshot({ path: join(plan.pictures, `${plan.language}-${name}.png`), fullPage: true });
  pictures++;
}
const document_dir = 'ltr';

async function view(page, name) {
  await page.evaluate(v => { location.hash = v; }, name);
  await page.locator(`[data-view=${name}]`).waitFor();
}

// connected waits for it and reads a page of the open internet through the proxy.
async function connected(page, how) {
  await phase(page, 'connected');
  if (await page.evaluate(() => location.hash) !== '#programs') wrong(how + ': the page does not show how to set up programs');
  const set = await page.locator('[data-program=firefox] code').first().textContent();
  if (set !== `http://${plan.proxy}/proxy.pac`) wrong('Firefox is to be set to ' + set);
  const tg = await page.locator('#telegram').getAttribute('href');
  const [host, port] = plan.proxy.split(':');
  if (tg !== `tg://socks?server=${host}&port=${port}`) wrong('Telegram is to be set by ' + tg);
  const outside = await browser.newContext({ proxy: { server: 'socks5://' + plan.proxy } });
  const read = await outside.newPage();
  await read.goto(plan.origin);
  if (!(await read.content()).includes('You can read this')) wrong(how + ': the page through the proxy is another one');
  await outside.close();
  say('read by ' + how);
  await heard();
}

async function forget(page) {
  await view(page, 'invites');
  await page.locator('#held li button.danger').first().click();
  await page.locator('#sure[open]').waitFor();
  await page.locator('#sure-yes').click();
  await phase(page, 'empty');
}

const wide = { width: 1180, height: 800 }, phone = { width: 390, height: 800 };

const stories = {
  // The whole first run, by text, picture and camera.
  async first() {
    const page = await open(plan.links.shift(), { viewport: wide, colorScheme: 'light' });
    await phase(page, 'empty');
    if (await text(page, 'title') !== plan.words['state.empty']) wrong('the page begins with ' + await text(page, 'title'));
    await judge(page, 'first-wide-light');

    await page.fill('#text', 'hello');
    await page.click('#text-form button');
    await page.waitForFunction(w => document.getElementById('add-error').textContent === w, plan.words['error.foreign']);
    await page.fill('#text', plan.invite.slice(0, 60) + (plan.invite[60] === 'a' ? 'b' : 'a') + plan.invite.slice(61));
    await page.click('#text-form button');
    await page.waitForFunction(w => document.getElementById('add-error').textContent === w, plan.words['error.damaged']);
    await page.fill('#text', 'Forwarded:\n' + plan.invite.replace(/(.{40})/g, '$1\n'));
    await page.click('#text-form button');
    await connected(page, 'text');
    await judge(page, 'programs-wide-light');
    await forget(page);

    await page.setInputFiles('#file', plan.noise);
    await page.waitForFunction(w => document.getElementById('add-error').textContent === w, plan.words['error.no-code']);
    await page.setInputFiles('#file', plan.picture);
    await connected(page, 'picture');
    await forget(page);

    await page.click('#camera');
    await connected(page, 'camera');
    const lens = await page.evaluate(() => document.getElementById('video').srcObject);
    if (lens) wrong('the camera stays on');

    await view(page, 'invites');
    await page.locator('#held li button').first().click();
    await page.fill('#held input', 'Ганна & <b>Co</b>');
    await page.keyboard.press('Enter');
    await page.waitForFunction(() => document.querySelector('#held strong')?.textContent === 'Ганна & <b>Co</b>');
    await page.context().close();
  },

  // Every view, for everybody.
  async views() {
    for (const [i, [size, viewport]] of [['wide', wide], ['phone', phone]].entries()) for (const [j, colorScheme] of ['light', 'dark'].entries()) {
      if (plan.language !== 'en' && i !== j) continue; // what differs by language is how long words are
      const page = await open(plan.links.shift(), { viewport, colorScheme, deviceScaleFactor: size === 'phone' ? 2 : 1 });
      if (i + j === 0) { // by keyboard alone: the skip link, the language, then the parts of the page
        const stops = [];
        for (let n = 0; n < 3; n++) {
          await page.keyboard.press('Tab');
          stops.push(await page.evaluate(() => document.activeElement.className || document.activeElement.id || document.activeElement.getAttribute('href')));
        }
        if (stops.join() !== 'skip,lang,#home') wrong('the keyboard stops at ' + stops);
      }
      for (const name of ['home', 'programs', 'share', 'invites', 'settings', 'add']) {
        await view(page, name);
        if (name === 'programs') for (const d of await page.locator('#programs details').all()) await d.evaluate(e => { e.open = true; });
        if (name === 'share') {
          await page.click('#show');
          await page.locator('#qr').waitFor();
        }
        await judge(page, `${name}-${size}-${colorScheme}`);
      }
      if (i + j === 0) {
        await view(page, 'settings');
        await page.locator('#quit').click();
        await page.locator('#sure[open]').waitFor();
        await judge(page, 'sure');
        await page.keyboard.press('Escape');
        // Another language holds at once, and stays.
        const other = plan.language === 'ru' ? 'be' : 'ru';
        await Promise.all([page.waitForEvent('load'), page.selectOption('#lang', other)]);
        await page.waitForFunction(l => document.documentElement.lang === l, other);
        await Promise.all([page.waitForEvent('load'), page.selectOption('#lang', plan.language)]);
        await page.waitForFunction(l => document.documentElement.lang === l, plan.language);
        await page.fill('#port', '2080');
        await page.click('#settings-form button');
        await page.waitForFunction(w => document.getElementById('settings-note').textContent === w, plan.words['settings.restart']);
      }
      await page.context().close();
    }
  },

  // A block, as it is seen.
  async block() {
    const page = await open(plan.links.shift(), { viewport: wide, colorScheme: 'light' });
    await phase(page, 'connected');
    say('connected');
    await heard(); // blocked from now on
    const begin = Date.now();
    await phase(page, 'blocked');
    await page.waitForFunction(w => document.getElementById('say').textContent.includes(w), plan.words['failure.' + plan.failure], { timeout: 10000 })
      .catch(async () => wrong('the page does not say why: ' + await text(page, 'say')));
    const took = Date.now() - begin;
    say('blocked ' + took);
    if (await text(page, 'title') !== plan.words['state.blocked']) wrong('the page says ' + await text(page, 'title'));
    await judge(page, 'blocked');
    say('looked');
    await heard(); // free again
    await phase(page, 'connected', 60000) // the client tries again twice a minute, at least
      .catch(async () => wrong('the way is free, and the page says: ' + await text(page, 'title') + ' ' + await text(page, 'say')));
    await page.waitForFunction(() => document.querySelector('#history li[data-kind=moved]'));
    say('history ' + JSON.stringify(await page.locator('#history li').evaluateAll(l => l.map(e => e.dataset.kind + ': ' + e.querySelector('span').textContent))));
    await judge(page, 'moved');
  },

  // A move that is over at once: its words are there, and if the page was in its midst, it is
  // connected again a moment later.
  async move() {
    const page = await open(plan.links.shift(), { viewport: wide, colorScheme: 'light' });
    await phase(page, 'connected');
    say('connected');
    await heard(); // cut
    const begin = Date.now();
    await page.waitForFunction(w => document.getElementById('say').textContent.includes(w), plan.words['failure.reset']);
    say('told ' + (Date.now() - begin));
    await phase(page, 'connected', 3000).catch(() => wrong('it is not connected after the move'));
    say('history ' + JSON.stringify(await page.locator('#history li').evaluateAll(l => l.map(e => e.dataset.kind + ': ' + e.querySelector('span').textContent))));
  },

  // Sharing over Wi-Fi: somebody else's phone fetches the program and the invite.
  async wifi() {
    const page = await open(plan.links.shift(), { viewport: wide, colorScheme: 'light' });
    await view(page, 'share');
    await page.click('#wifi-on');
    await page.locator('#pin').waitFor();
    await judge(page, 'wifi');
    const address = await page.locator('#wifi-live code').first().textContent(), pin = await text(page, 'pin');
    say('address ' + address);
    await heard();

    const context = await browser.newContext({ locale: plan.language, viewport: phone, colorScheme: 'dark', acceptDownloads: true });
    const other = await context.newPage();
    await other.goto(address);
    await judge(other, 'near-form');
    await other.fill('#pin', pin === '000000' ? '000001' : '000000');
    await other.click('button');
    await other.locator('.error').waitFor();
    if (!(await other.content()).includes(plan.words['near.wrong'])) wrong('a wrong PIN is answered ' + await other.content());
    await other.waitForTimeout(1100); // tries are a second apart
    await other.fill('#pin', pin.slice(0, 3) + ' ' + pin.slice(3));
    await other.click('button');
    await other.locator('textarea').waitFor();
    await judge(other, 'near-files');
    if (await other.locator('textarea').inputValue() !== plan.invite) wrong('the invite is another one');
    for (const link of await other.locator('a').all()) {
      const [download] = await Promise.all([other.waitForEvent('download'), link.click()]);
      const { createHash } = await import('node:crypto');
      say('file ' + download.suggestedFilename() + ' ' + createHash('sha256').update(readFileSync(await download.path())).digest('hex'));
    }
    await page.waitForFunction(w => document.getElementById('wifi-live').textContent.includes(w), plan.words['wifi.taken.2']);
    await page.click('#wifi-live > button');
    await page.locator('#wifi-on').waitFor();
    if (await other.reload().then(() => true, () => false)) wrong('it goes on after the end');

    await page.click('#wifi-on');
    await page.locator('#pin').waitFor();
    say('again'); // and the machine goes to another network
    await page.locator('#wifi-on').waitFor();
  },

  // A passphrase is set on the page,
  async protect() {
    const page = await open(plan.links.shift(), { viewport: wide, colorScheme: 'light' });
    await view(page, 'settings');
    await page.fill('#protect-new', 'stork');
    await page.click('#protect-form button');
    await page.waitForFunction(w => document.getElementById('protect-note').textContent === w, plan.words['error.weak-passphrase']);
    await page.fill('#protect-new', plan.passphrase);
    await page.click('#protect-form button');
    await page.waitForFunction(w => document.getElementById('protect-note').textContent === w, plan.words['protect.set']);
    await page.locator('#protect-old-field').waitFor();
    await judge(page, 'protected');
  },

  // asked for at the next start,
  async unlock() {
    const page = await open(plan.links.shift(), { viewport: phone, colorScheme: 'dark' });
    await phase(page, 'locked');
    await judge(page, 'locked');
    await page.fill('#unlock-word', 'not this one, surely');
    await page.keyboard.press('Enter');
    await page.waitForFunction(w => document.getElementById('unlock-error').textContent === w, plan.words['error.wrong-passphrase']);
    await page.fill('#unlock-word', plan.passphrase);
    await page.keyboard.press('Enter');
    await phase(page, 'ready');
    await view(page, 'invites');
    if (await page.locator('#held li').count() !== 1) wrong('the invite is not there');
  },

  // and everything is removed.
  async wipe() {
    plan.quiet = true; // a browser says in the console that nobody answers
    const page = await open(plan.links.shift(), { viewport: phone, colorScheme: 'light' });
    await view(page, 'settings');
    await page.click('#wipe');
    await page.locator('#sure[open]').waitFor();
    await page.click('#sure button[value=no]');
    await page.click('#wipe');
    await page.click('#sure-yes');
    await phase(page, 'wiped');
    await judge(page, 'wiped');
    if (await page.evaluate(() => localStorage.length)) wrong('the browser keeps the key');
  },

  // The client ends while the page is open.
  async quit() {
    plan.quiet = true; // a browser says in the console that nobody answers
    const page = await open(plan.links.shift(), { viewport: phone, colorScheme: 'dark' });
    await view(page, 'settings');
    await page.click('#quit');
    await page.click('#sure-yes');
    await phase(page, 'ended');
    await judge(page, 'ended');
    await page.reload().catch(() => { });
  },
};

try {
  for (const s of plan.stories) await stories[s]();
  say('done ' + pictures);
} catch (e) { wrong(e.stack); }
await browser.close();
process.exit(0);
