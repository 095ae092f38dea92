package main

import (
	"fmt"
	"image/color"
	"math"
	"os"

	"github.com/dustin/go-humanize"
	"gonum.org/v1/plot"
	"gonum.org/v1/plot/plotter"
	"gonum.org/v1/plot/vg"
	"gonum.org/v1/plot/vg/draw"
	"gonum.org/v1/plot/vg/vgsvg"
)

// A panel is one of the curves over the number of keys.
type panel struct {
	label string
	of    func(row) float64
}

var panels = []panel{
	{"keys/s", func(r row) float64 { return r.rate }},
	{"Go heap, peak, MiB", func(r row) float64 { return float64(r.peak.heap) / (1 << 20) }},
}

// colors are those of the phases, in their order. They differ also for those who
// do not see red and green apart.
var colors = []color.Color{color.RGBA{0x1f, 0x77, 0xb4, 0xff}, color.RGBA{0xff, 0x7f, 0x0e, 0xff}}

func plotFile(csv, svg string) error {
	rows, err := readRows(csv)
	if err != nil {
		return err
	}
	if len(rows) == 0 {
		return fmt.Errorf("%s has no rows", csv)
	}
	return plotRows(rows, svg)
}

// plotRows draws the panels one below the other.
func plotRows(rows []row, svg string) error {
	var grid [][]*plot.Plot
	for _, p := range panels {
		drawn, err := p.draw(rows)
		if err != nil {
			return err
		}
		grid = append(grid, []*plot.Plot{drawn})
	}
	c := vgsvg.New(20*vg.Centimeter, 20*vg.Centimeter)
	tiles := draw.Tiles{Rows: len(grid), Cols: 1, PadX: vg.Points(8), PadY: vg.Points(16),
		PadTop: vg.Points(8), PadBottom: vg.Points(8), PadLeft: vg.Points(8), PadRight: vg.Points(24)}
	for i, canvas := range plot.Align(grid, tiles, draw.New(c)) {
		grid[i][0].Draw(canvas[0])
	}
	f, err := os.Create(svg)
	if err != nil {
		return err
	}
	if _, err := c.WriteTo(f); err != nil {
		_ = f.Close()
		return err
	}
	return f.Close()
}

func (p *panel) draw(rows []row) (*plot.Plot, error) {
	d := plot.New()
	d.X.Label.Text, d.Y.Label.Text = "keys", p.label
	d.X.Tick.Marker, d.Y.Tick.Marker = counts{}, counts{}
	d.Legend.Top = true
	d.Add(plotter.NewGrid())
	for i, phase := range phases(rows) {
		line, err := plotter.NewLine(p.points(ofPhase(rows, phase)))
		if err != nil {
			return nil, err
		}
		line.Width, line.Color = vg.Points(1.5), colors[i%len(colors)]
		d.Add(line)
		d.Legend.Add(phase, line)
	}
	d.Y.Min = 0 // else a small change looks like a large one
	d.Y.Max = math.Max(1, d.Y.Max*1.15)
	return d, nil
}

func (p *panel) points(rows []row) plotter.XYs {
	points := make(plotter.XYs, len(rows))
	for i, r := range rows {
		points[i] = plotter.XY{X: float64(r.keys), Y: p.of(r)}
	}
	return points
}

// counts labels an axis with whole numbers that are easy to read: 2,000,000.
type counts struct{}

// Ticks implements plot.Ticker.
func (counts) Ticks(from, to float64) []plot.Tick {
	ticks := plot.DefaultTicks{}.Ticks(from, to)
	for i := range ticks {
		if ticks[i].Label != "" {
			ticks[i].Label = humanize.CommafWithDigits(ticks[i].Value, 0)
		}
	}
	return ticks
}
