package picture

import (
	"math"

	"github.com/makiuchi-d/gozxing"
	"github.com/makiuchi-d/gozxing/common"
	"github.com/makiuchi-d/gozxing/qrcode/decoder"
	"github.com/makiuchi-d/gozxing/qrcode/detector"
)

// Bounds of fitting a grid, in modules.
const (
	fitReach = 8     // from where the fourth corner is expected
	fitGrain = 0.125 // to how much of a module it is found
	// fitGood is the part of the fixed modules that have to be as they should.
	// Noise matches one half of them, a code that can be read nearly all.
	fitGood = 0.85
)

// fit finds the grid of a code that is seen at an angle, where the three corners
// do not tell the fourth: it takes the one at which most of the modules that are
// the same in all codes of that size, the timing and alignment patterns (ISO/IEC
// 18004, sections 6.3.5 and 6.3.6), are as they should.
func fit(matrix *gozxing.BitMatrix, info *detector.FinderPatternInfo) (*gozxing.BitMatrix, bool) {
	tl, tr, bl := info.GetTopLeft(), info.GetTopRight(), info.GetBottomLeft()
	// What is farther away is smaller; in homogeneous coordinates the corners of
	// a square seen at an angle are those of a parallelogram.
	weight := func(p *detector.FinderPattern) float64 { return 1 / p.GetEstimatedModuleSize() }
	last := weight(tr) + weight(bl) - weight(tl)
	if last < weight(tl)/4 {
		return nil, false
	}
	x := (weight(tr)*tr.GetX() + weight(bl)*bl.GetX() - weight(tl)*tl.GetX()) / last
	y := (weight(tr)*tr.GetY() + weight(bl)*bl.GetY() - weight(tl)*tl.GetY()) / last

	size := (tl.GetEstimatedModuleSize() + tr.GetEstimatedModuleSize() + bl.GetEstimatedModuleSize()) / 3
	sides := (gozxing.ResultPoint_Distance(tl, tr) + gozxing.ResultPoint_Distance(tl, bl)) / 2
	var best grid
	for version := 2; version <= 40; version++ {
		// A row that crosses a turned pattern is up to 1.4 times as long.
		estimate := sides / size / float64(4*version+17-7)
		if estimate < 0.65 || estimate > 1.2 {
			continue
		}
		v, err := decoder.Version_GetVersionForNumber(version)
		if err != nil {
			continue
		}
		fixed := fixedModules(v)
		module := sides / float64(4*version+17-7)
		// The fourth pattern is the alignment pattern, 3 modules further in.
		dimension := float64(4*version + 17)
		inside := 1 - 3/(dimension-7)
		ax, ay := tl.GetX()+inside*(x-tl.GetX()), tl.GetY()+inside*(y-tl.GetY())
		try := func(x, y float64) {
			g := grid{dimension: dimension, x: x, y: y, transform: common.PerspectiveTransform_QuadrilateralToQuadrilateral(
				3.5, 3.5, dimension-3.5, 3.5, dimension-6.5, dimension-6.5, 3.5, dimension-3.5,
				tl.GetX(), tl.GetY(), tr.GetX(), tr.GetY(), x, y, bl.GetX(), bl.GetY())}
			g.score = g.matches(matrix, fixed)
			if g.score > best.score {
				best = g
			}
		}
		before := best.score
		for i := -fitReach; i <= fitReach; i++ {
			for j := -fitReach; j <= fitReach; j++ {
				try(ax+float64(i)*module, ay+float64(j)*module)
			}
		}
		if best.score == before {
			continue
		}
		for step := 0.5; step >= fitGrain; step /= 2 {
			cx, cy := best.x, best.y
			for i := -1; i <= 1; i++ {
				for j := -1; j <= 1; j++ {
					try(cx+float64(i)*step*module, cy+float64(j)*step*module)
				}
			}
		}
	}
	if best.score < fitGood {
		return nil, false
	}
	n := int(best.dimension)
	bits, err := common.GridSampler_GetInstance().SampleGridWithTransform(matrix, n, n, best.transform)
	return bits, err == nil
}

// grid is where the modules of a code are in a picture.
type grid struct {
	dimension float64 // modules a side
	x, y      float64 // of the last alignment pattern in the picture
	transform *common.PerspectiveTransform
	score     float64 // 0..1
}

// matches is the part of the fixed modules that have their colour; 0 if that is
// little for the first ones, those of the timing patterns, so that noise and
// wrong sizes cost little.
func (g *grid) matches(matrix *gozxing.BitMatrix, fixed []fixedModule) float64 {
	const some = 32
	var points [2 * some]float64
	right := 0
	for start := 0; start < len(fixed); start += some {
		chunk := fixed[start:min(start+some, len(fixed))]
		for i, m := range chunk {
			points[2*i], points[2*i+1] = m.x, m.y
		}
		g.transform.TransformPoints(points[:2*len(chunk)])
		for i, m := range chunk {
			x, y := points[2*i], points[2*i+1]
			if !(math.Abs(x) < 1<<20 && math.Abs(y) < 1<<20) { // nor NaN
				return 0
			}
			if matrix.Get(int(x), int(y)) == m.black {
				right++
			}
		}
		if start == 0 && right*4 < len(chunk)*3 {
			return 0
		}
	}
	return float64(right) / float64(len(fixed))
}

// fixedModule is the middle of a module that is the same in all codes of a
// version.
type fixedModule struct {
	x, y  float64
	black bool
}

func fixedModules(v *decoder.Version) []fixedModule {
	var all []fixedModule
	set := func(x, y int, black bool) {
		all = append(all, fixedModule{float64(x) + 0.5, float64(y) + 0.5, black})
	}
	n := v.GetDimensionForVersion()
	for i := 8; i < n-8; i++ {
		set(i, 6, i%2 == 0)
		set(6, i, i%2 == 0)
	}
	centers := v.GetAlignmentPatternCenters()
	for i, y := range centers {
		for j, x := range centers {
			last := len(centers) - 1
			if i == 0 && j == 0 || i == 0 && j == last || i == last && j == 0 {
				continue // a finder pattern is there
			}
			for dy := -2; dy <= 2; dy++ {
				for dx := -2; dx <= 2; dx++ {
					set(x+dx, y+dy, max(dx, -dx, dy, -dy) != 1)
				}
			}
		}
	}
	return all
}
