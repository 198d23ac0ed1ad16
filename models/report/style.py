"""The looks of every page: one column, light or dark as the reader has it, on a phone, a desktop or paper."""

from __future__ import annotations

# Colours of curves and marks: Okabe and Ito (2008), which the colour-blind tell apart, lighter ones on dark.
CSS = """
:root {
  color-scheme: light dark;
  --paper: #fcfbf8; --raised: #ffffff; --ink: #1d2126; --soft: #5c636b; --rule: #e4e1d9; --grid: #efede6;
  --blue: #0072b2; --orange: #c44d00; --green: #00785a; --grey: #80868d; --bar: #e9e6de;
  --serif: Charter, "Bitstream Charter", "Iowan Old Style", "Source Serif 4", Cambria, Georgia, serif;
  --sans: system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", "Noto Sans", Arial, sans-serif;
  --mono: ui-monospace, "SF Mono", Menlo, Consolas, "Liberation Mono", monospace;
}
@media (prefers-color-scheme: dark) {
  :root {
    --paper: #15171a; --raised: #1c1f23; --ink: #e8e6e1; --soft: #a0a6ad; --rule: #30343a; --grid: #24282d;
    --blue: #56b4e9; --orange: #ff9a4d; --green: #3fc79f; --grey: #8b9199; --bar: #2b2f35;
  }
}
* { box-sizing: border-box; }
html { -webkit-text-size-adjust: 100%; }
body {
  margin: 0 auto; max-width: 58rem; padding: 2rem 1rem 4rem; background: var(--paper); color: var(--ink);
  font: 16px/1.55 var(--sans); overflow-wrap: anywhere;
}
h1, h2, h3, p, ul, ol, figure, pre, table { margin: 0; }
.eyebrow { color: var(--soft); font-size: .875rem; }
h1 { font: 500 1.75rem/1.2 var(--serif); letter-spacing: -.01em; margin: .75rem 0 1.5rem; text-wrap: balance; }
h2 { font: 500 1.375rem/1.25 var(--serif); margin-bottom: .35rem; }
h3 { font-size: 1rem; font-weight: 600; line-height: 1.35; }
section { margin-top: 3.5rem; }
.lead { color: var(--soft); max-width: 42rem; margin-bottom: 1.5rem; }
.note, .soft { color: var(--soft); font-size: .875rem; }
code, pre { font-family: var(--mono); font-size: .875rem; }
pre {
  background: var(--raised); border: 1px solid var(--rule); border-radius: 6px; padding: .75rem .9rem;
  white-space: pre-wrap; margin-top: .5rem; user-select: all; -webkit-user-select: all;
}
pre + p { margin-top: 1rem; }
a { color: inherit; }

.causes { list-style: none; padding: 0; }
.cause { border-top: 1px solid var(--rule); padding: 1.25rem 0 1.5rem; }
.cause > header { display: grid; grid-template-columns: 1fr auto; gap: .1rem 1rem; align-items: baseline; }
.cause b.probability { font: 500 1.375rem/1 var(--serif); font-variant-numeric: lining-nums tabular-nums; }
.cause:not(:first-child) b.probability { color: var(--soft); }
.bar { grid-column: 1 / -1; height: 4px; border-radius: 2px; background: var(--bar); margin: .5rem 0 .75rem; }
.bar i { display: block; height: 100%; min-width: 2px; border-radius: 2px; background: var(--blue); }
.bar i, .plot, .ramp, .key i { print-color-adjust: exact; -webkit-print-color-adjust: exact; }
.evidence { padding-left: 1.1rem; list-style: disc; }
.evidence li { margin: .2rem 0; }
.evidence li::marker { color: var(--grey); }
.tried { margin-top: .75rem; padding-left: .9rem; border-left: 2px solid var(--green); }
.tried.vain { border-color: var(--rule); }
.vain-list { border-top: 1px solid var(--rule); padding-top: 1.25rem; }
.vain-list h3 { margin-bottom: .4rem; }
.family { color: var(--soft); font-size: .875rem; font-weight: 400; }

figure { display: flow-root; margin-top: 1.5rem; }
figcaption { font-weight: 600; }
.plot { display: block; overflow: visible; width: calc(100% - 66px); height: 220px; margin: 44px 14px 42px 52px; }
.plot.small { height: 104px; margin: 30px 10px 40px 46px; width: calc(100% - 56px); }
.plot.low { height: 96px; margin-top: 36px; }
.plot.heat { width: calc(100% - 136px); margin: 26px 10px 44px 126px; shape-rendering: crispEdges; }
.plot image { image-rendering: pixelated; }
.plot text, .ramp text { font: 12px var(--sans); fill: var(--soft); font-variant-numeric: lining-nums tabular-nums; }
.plot text.y { text-anchor: end; }
.plot text.desktop { display: none; }
.plot text.x, .ramp text.x { text-anchor: middle; }
.plot text.label { text-anchor: start; }
.plot:not(.heat) text.label { transform: translateX(-40px); }
.plot text.x.label { text-anchor: end; transform: none; }
.plot text.none { text-anchor: middle; }
.plot text.letter { text-anchor: middle; fill: var(--orange); font-weight: 700; }
.frame { fill: none; stroke: none; }
.heat .frame { stroke: var(--rule); }
.grid { stroke: var(--grid); }
.mark { stroke: var(--orange); stroke-dasharray: 3 3; opacity: .8; }
.hatch { stroke: var(--orange); stroke-width: 3; }
.curve {
  fill: none; stroke-width: 1.75; stroke-linejoin: round; stroke-linecap: round; vector-effect: non-scaling-stroke;
}
.curve.main { stroke: var(--blue); }
.curve.raw { stroke: var(--blue); stroke-width: 1; opacity: .55; }
.curve.base { stroke: var(--grey); stroke-width: 1.25; }
.curve.control { stroke: var(--orange); stroke-dasharray: 5 3; }
.dot { fill: var(--paper); stroke: var(--green); stroke-width: 2; }
.off { stroke: var(--orange); stroke-width: 6; stroke-linecap: square; }
.off.base { stroke: var(--grey); }
.legend, .scale { display: flex; flex-wrap: wrap; color: var(--soft); font-size: .875rem; font-weight: 400; }
.legend { gap: .1rem 1.25rem; }
.key { display: inline-flex; align-items: center; gap: .45rem; }
.key i { display: inline-block; width: 18px; border-top: 2px solid var(--blue); }
.key i.raw { opacity: .55; }
.key i.base { border-color: var(--grey); }
.key i.control { border-top: 2px dashed var(--orange); }
.key i.off { border-top: 6px solid var(--orange); width: 12px; }
.key i.mark { border: 0; border-left: 2px dashed var(--orange); width: 0; height: 14px; margin: 0 6px; }
.key i.dots { width: 9px; height: 9px; border: 2px solid var(--green); border-radius: 50%; }
.key i.zero { width: 14px; height: 14px; border: 1px solid var(--grey); background: #000; }
.scale { gap: .35rem 1.25rem; align-items: flex-start; }
.ramp { width: 200px; height: 30px; overflow: visible; margin: 6px 14px 0; }

dl.alarms { display: grid; grid-template-columns: auto 1fr; gap: .5rem .9rem; margin: 0; }
dl.alarms dt { color: var(--orange); font-weight: 700; }
dl.alarms dd { margin: 0; }
.multiples { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 17rem), 1fr)); gap: 1rem 2rem; }
.multiples > figure { margin-top: 1rem; border-top: 1px solid var(--rule); padding-top: .75rem; }
.multiples p { line-height: 1.4; }
.badge {
  display: inline-block; font-size: .75rem; font-weight: 500; color: var(--orange); border: 1px solid currentColor;
  border-radius: 99px; padding: 0 .5em; margin-left: .4em; vertical-align: .1em; white-space: nowrap;
}
.bars { list-style: none; padding: 0; margin-top: .75rem; }
.bars > li { display: grid; grid-template-columns: 1fr auto; gap: .1rem 1rem; margin: .5rem 0; font-size: .875rem; }
.bars b { font-weight: 400; font-variant-numeric: lining-nums tabular-nums; }
.bars .own span, .bars .own b { font-weight: 600; }
.track { grid-column: 1 / -1; position: relative; height: 8px; background: var(--grid); border-radius: 2px; }
.track i { position: absolute; inset: 0 auto 0 0; min-width: 2px; border-radius: 2px; background: var(--grey); }
.own .track i { background: var(--blue); }
.track u { position: absolute; top: 3px; height: 2px; min-width: 1px; background: var(--ink); opacity: .7; }
.track s { position: absolute; top: -3px; bottom: -3px; width: 2px; background: var(--green); }
.track i, .track u, .track s { print-color-adjust: exact; -webkit-print-color-adjust: exact; }
.findings { list-style: none; padding: 0; }
.findings > li { border-top: 1px solid var(--rule); padding: 1rem 0; }
.findings p { margin-top: .2rem; }
.scroll { overflow-x: auto; margin-top: .75rem; }
table { border-collapse: collapse; font-size: .875rem; font-variant-numeric: lining-nums tabular-nums; width: 100%; }
th, td { text-align: left; padding: .4rem .9rem .4rem 0; border-top: 1px solid var(--rule); vertical-align: top; }
th { color: var(--soft); font-weight: 500; border-top: 0; overflow-wrap: normal; }
th.n, td.n { text-align: right; white-space: nowrap; }
details { margin-top: 1.25rem; }
details h3 { margin-top: 1.5rem; }
summary { cursor: pointer; color: var(--soft); }
.pictures { display: grid; grid-template-columns: repeat(auto-fill, minmax(8.5rem, 1fr)); gap: 1.5rem 1.25rem; }
.pictures figure { margin: 0; }
.pictures img { display: block; width: 100%; max-width: 9rem; image-rendering: pixelated; border-radius: 3px; }
.pictures figcaption { font-size: .875rem; margin-top: .4rem; line-height: 1.35; }
.pictures p { font-weight: 400; color: var(--soft); }
footer {
  margin-top: 4rem; border-top: 1px solid var(--rule); padding-top: 1rem; color: var(--soft); font-size: .8125rem;
}
@media (min-width: 48rem) {
  body { padding: 4rem 2.5rem 6rem; }
  h1 { font-size: 2.5rem; }
  section { margin-top: 4.5rem; }
  .plot.heat { width: calc(100% - 236px); margin-left: 226px; }
  .plot text.desktop { display: inline; }
  .plot text.phone { display: none; }
}
@media print {
  :root {
    color-scheme: light;
    --paper: #fff; --raised: #fff; --ink: #000; --soft: #444; --rule: #ccc; --grid: #e6e6e6; --bar: #ddd;
    --blue: #0072b2; --orange: #c44d00; --green: #00785a; --grey: #777;
  }
  body { max-width: none; padding: 0; font-size: 10.5pt; }
  section { margin-top: 2rem; }
  figure, .cause, .findings > li, pre, tr { break-inside: avoid; }
  h2, h3, figcaption { break-after: avoid; }
  .scroll { overflow: visible; }
  details::details-content { content-visibility: visible; block-size: auto; }
}
""".strip()


def page(title: str, body: str) -> str:
    """A self-contained HTML document; `title` and `body` are markup."""
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{title}</title>\n<style>\n{CSS}\n</style>\n</head>\n<body>\n{body}\n</body>\n</html>\n"
    )
