package main

import (
	"fmt"
	"math"
	"strings"

	"github.com/dustin/go-humanize"
	pretty "github.com/jedib0t/go-pretty/v6/table"
	"github.com/jedib0t/go-pretty/v6/text"
)

// table is what was found on one store.
type table struct {
	store string
	rows  []row
}

func (t table) render(markdown bool) string {
	w := pretty.NewWriter()
	w.SetStyle(pretty.StyleLight)
	w.Style().Format.Header = text.FormatDefault
	w.AppendHeader(pretty.Row{"On " + t.store, "Metric", "Unit", "Ours", "Theirs", "Ratio", "Bare store", "÷ bare", "Target", "Met"})
	var right []pretty.ColumnConfig
	for column := 4; column <= 8; column++ {
		right = append(right, pretty.ColumnConfig{Number: column, Align: text.AlignRight})
	}
	w.SetColumnConfigs(right)
	for _, r := range t.rows {
		w.AppendRow(r.cells())
	}
	if markdown {
		return w.RenderMarkdown() + "\n"
	}
	return w.Render()
}

func (r row) cells() pretty.Row {
	times, theirs := figure(r.ratio), figure(r.theirs)
	if r.killed > 0 {
		times, theirs = "≥ "+times, "> "+r.killed.String()
	}
	wanted, met := r.verdicts()
	return pretty.Row{r.scenario, r.metric, r.unit, figure(r.ours), theirs, times, figure(r.bare), figure(r.toBare), wanted, met}
}

func (r row) verdicts() (wanted, met string) {
	var all, verdicts []string
	for _, t := range r.targets {
		all = append(all, t.String())
		verdicts = append(verdicts, map[bool]string{true: "yes", false: "no"}[t.met(r)])
	}
	return strings.Join(all, ", "), strings.Join(verdicts, ", ")
}

// figure writes a number with three digits at least, and nothing for none.
func figure(x float64) string {
	switch {
	case math.IsNaN(x) || math.IsInf(x, 0):
		return ""
	case math.Abs(x) >= 1000:
		return humanize.Comma(int64(math.Round(x)))
	case math.Abs(x) >= 100:
		return fmt.Sprintf("%.0f", x)
	default:
		return fmt.Sprintf("%.3g", x)
	}
}
