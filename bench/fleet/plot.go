package main

import (
	"fmt"
	"image/color"
	"math"
	"os"
	"slices"

	"gonum.org/v1/plot"
	"gonum.org/v1/plot/plotter"
	"gonum.org/v1/plot/vg"
	"gonum.org/v1/plot/vg/draw"
	"gonum.org/v1/plot/vg/vgsvg"
)

// panels are the curves over the number of replicas, two abreast.
var panels = [][]figure{
	{{"propagation, p50, ms", func(r row) float64 { return ms(r.p50) }}, {"propagation, p99, ms", func(r row) float64 { return ms(r.p99) }}},
	{{"messages for a write and replica", func(r row) float64 { return r.parcels }}, {"bytes for a write and replica", func(r row) float64 { return r.bytes }}},
	{{"duplicates of a message", func(r row) float64 { return r.repeated }}, {"CPU of a merged block, µs", func(r row) float64 { return float64(r.cpu) / 1000 }}},
	{{"heads, mean", func(r row) float64 { return r.heads }}, {"announcements for a write", func(r row) float64 { return r.published }}},
	{{"links of a block", func(r row) float64 { return r.links }}, {"all the same after, s", func(r row) float64 { return r.settled.Seconds() }}},
}

// colors are those of the rates, in their order. They differ also for those who do not
// see red and green apart.
var colors = []color.Color{color.RGBA{0x1f, 0x77, 0xb4, 0xff}, color.RGBA{0xff, 0x7f, 0x0e, 0xff}, color.RGBA{0x55, 0x55, 0x55, 0xff}}

func plotRows(rows []row, svg string) error {
	var grid [][]*plot.Plot
	for _, abreast := range panels {
		var line []*plot.Plot
		for _, f := range abreast {
			drawn, err := f.draw(rows)
			if err != nil {
				return err
			}
			line = append(line, drawn)
		}
		grid = append(grid, line)
	}
	c := vgsvg.New(24*vg.Centimeter, vg.Length(7*len(grid))*vg.Centimeter)
	tiles := draw.Tiles{Rows: len(grid), Cols: len(grid[0]), PadX: vg.Points(16), PadY: vg.Points(16),
		PadTop: vg.Points(8), PadBottom: vg.Points(8), PadLeft: vg.Points(8), PadRight: vg.Points(16)}
	for i, line := range plot.Align(grid, tiles, draw.New(c)) {
		for j, canvas := range line {
			grid[i][j].Draw(canvas)
		}
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

// draw draws a curve for each rate.
func (f *figure) draw(rows []row) (*plot.Plot, error) {
	d := plot.New()
	d.X.Label.Text, d.Y.Label.Text = "replicas", f.name
	d.Legend.Top, d.Legend.Left = true, true
	d.Add(plotter.NewGrid())
	for i, rate := range ratesOf(rows) {
		line, dots, err := plotter.NewLinePoints(f.points(rows, rate))
		if err != nil {
			return nil, err
		}
		line.Width, line.Color = vg.Points(1.5), colors[i%len(colors)]
		dots.Color = line.Color
		d.Add(line, dots)
		d.Legend.Add(fmt.Sprintf("%d writes/s", rate), line)
	}
	d.X.Min, d.Y.Min = 0, 0 // else a small change looks like a large one
	d.Y.Max = math.Max(1, d.Y.Max*1.35)
	return d, nil
}

func (f *figure) points(rows []row, rate int) (points plotter.XYs) {
	for _, r := range rows {
		if r.rate == rate {
			points = append(points, plotter.XY{X: float64(r.replicas), Y: f.of(r)})
		}
	}
	return points
}

func ratesOf(rows []row) (rates []int) {
	for _, r := range rows {
		if !slices.Contains(rates, r.rate) {
			rates = append(rates, r.rate)
		}
	}
	return rates
}
