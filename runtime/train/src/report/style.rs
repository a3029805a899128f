//! The look of a report, on screen and on paper.

/// The style sheet.
pub(super) const CSS: &str = "
:root { color-scheme: light; --ink: #212529; --soft: #606770; --line: #e2e6ea; --faint: #f6f8fa; --pass: #26924b; --fail: #c92a2a; --accent: #1f6feb; }
* { box-sizing: border-box; }
body { margin: 0; background: #fff; color: var(--ink); font: 15px/1.55 system-ui, -apple-system, 'Segoe UI', Roboto, 'Helvetica Neue', Arial, sans-serif; }
main { max-width: 960px; margin: 0 auto; padding: 32px 28px 64px; }
header { border-bottom: 2px solid var(--ink); padding-bottom: 14px; margin-bottom: 24px; }
h1 { font-size: 27px; line-height: 1.25; margin: 0 0 12px; overflow-wrap: anywhere; }
h2 { font-size: 20px; margin: 36px 0 10px; padding-bottom: 4px; border-bottom: 1px solid var(--line); }
h3 { font-size: 16px; margin: 0 0 10px; overflow-wrap: anywhere; }
h4 { font-size: 12px; margin: 0 0 4px; color: var(--soft); text-transform: uppercase; letter-spacing: .06em; }
dl { display: grid; grid-template-columns: max-content 1fr; gap: 2px 18px; margin: 0; }
dt { color: var(--soft); }
dd { margin: 0; overflow-wrap: anywhere; font-variant-numeric: tabular-nums; }
header dd { font: 13px/1.75 ui-monospace, SFMono-Regular, Menlo, Consolas, monospace; }
.wide { overflow-x: auto; margin: 16px 0; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
caption { text-align: left; font-weight: 600; padding: 4px 0; }
th, td { padding: 5px 14px; text-align: left; border-bottom: 1px solid var(--line); }
th { border-bottom: 1.5px solid var(--soft); font-weight: 600; }
th.n, td.n { text-align: right; }
tbody tr:hover { background: var(--faint); }
figure { margin: 16px 0; }
figure svg { max-width: 100%; height: auto; display: block; }
pre { background: var(--faint); border: 1px solid var(--line); border-radius: 6px; padding: 12px 16px; overflow-x: auto; font: 13px/1.5 ui-monospace, SFMono-Regular, Menlo, Consolas, monospace; }
.spec .c { color: #6a737d; font-style: italic; } .spec .s { color: #0a6c46; } .spec .d { color: #9a4b00; } .spec .k { color: #1a56c4; font-weight: 600; } .spec .t { color: #7b3fa0; }
.note { color: var(--soft); font-style: italic; }
.verdict { font-weight: 600; margin: 14px 0 6px; } .verdict.pass { color: var(--pass); } .verdict.fail { color: var(--fail); }
.checks { list-style: none; margin: 0 0 16px; padding: 0; }
.checks li { display: flex; gap: 10px; padding: 6px 12px; margin: 4px 0; border-left: 4px solid; border-radius: 3px; background: var(--faint); }
.checks li.pass { border-color: var(--pass); } .checks li.fail { border-color: var(--fail); background: #fdf1f1; }
.checks .pass b { color: var(--pass); } .checks .fail b { color: var(--fail); }
.checks small { display: block; color: var(--soft); overflow-wrap: anywhere; }
.run { border: 1px solid var(--line); border-radius: 8px; padding: 16px 18px; margin: 16px 0; }
.columns { display: flex; flex-wrap: wrap; gap: 14px 56px; }
@media print {
  body { font-size: 11px; } main { max-width: none; padding: 0; }
  figure, table, .run .columns, .checks li { break-inside: avoid; } h2, h3 { break-after: avoid; }
  pre { white-space: pre-wrap; overflow: visible; font-size: 10px; } .wide { overflow: visible; }
  * { print-color-adjust: exact; -webkit-print-color-adjust: exact; }
}
";
