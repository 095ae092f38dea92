package interop

import (
	"encoding/hex"
	"testing"
)

// What the old module wrote for Put(/a/b,v1) Put(/a/b,v2) Put(/a,p) Delete(/a/b), and then
// what was published as /n=named on a DAG called dag1: each block, and its announcement.
var vectors = []struct{ cid, block, announcement string }{
	{"bafybeibgjhlsecxy2cdeiq5awbkrnwqvxoulvge3qdecvi2grjnv7osgby",
		"0a0e0a0a0a042f612f621a0276311801",
		"0a260a24017012202649d7220af8d0864443a0b05516da15bba8ba989b80c82aa3468a5b5fba460e"},
	{"bafybeigjdlce3qnc7lcea3azn7w7462uldxmora2vbjgpl2sicbk7trzky",
		"122a0a24017012202649d7220af8d0864443a0b05516da15bba8ba989b80c82aa3468a5b5fba460e120018000a0e0a0a0a042f612f621a0276321802",
		"0a260a2401701220c91ac44dc1a2fac4406c196fedfe7b5458eec7441aa85267af524082afce3956"},
	{"bafybeiba6k3dobnrxvxmpp4574akwa2znephwgrhbdxku4k7kpxod2u4zq",
		"122a0a2401701220c91ac44dc1a2fac4406c196fedfe7b5458eec7441aa85267af524082afce3956120018000a0b0a070a022f611a01701803",
		"0a260a240170122020f2b63705b1bd6ec7bf9dff00ab0359691e7b1a2708eeaa715f53eee1ea9ccc"},
	{"bafybeicd5ak4yuyrwdpz3b6tsoupdv6mvfezbt3w36lopra7t2kc7tmrmq",
		"122a0a240170122020f2b63705b1bd6ec7bf9dff00ab0359691e7b1a2708eeaa715f53eee1ea9ccc120018000a860112400a042f612f6212382f434951434d534f58454946505255454749524232424d435643334e424c4f3549584b4d4a58414749464b52554e4353334c3635454d445112400a042f612f6212382f4349514d534757454a58413246365745494257425333374e375a35564957484f59354342564b43534d36585645514543563748445356511804",
		"0a260a240170122043e815cc5311b0df9d87d393a8f1d7cca94990cf76df96e7c41f9e942fcd9164"},
	{"bafybeideh4j5gu6kjxggwyivaugccg5t3wcfv3xzrmdaeyr6k66sjxyvzu",
		"0a150a0b0a022f6e1a056e616d65641801220464616731",
		"0a2c0a2401701220643f13d353ca4dcc6b6115050c211bb3dd845aeef98b0602623e57bd24df15cd120464616731"},
}

func TestTheTestsMakeBlocksAsTheOldModuleDoes(t *testing.T) {
	first := newBlock(delta{elements: []element{{"/a/b", "v1"}}, priority: 1}, nil)
	second := newBlock(delta{elements: []element{{"/a/b", "v2"}}, priority: 2}, []*dagBlock{first})
	third := newBlock(delta{elements: []element{{"/a", "p"}}, priority: 3}, []*dagBlock{second})
	gone := []tombstone{{"/a/b", first.id()}, {"/a/b", second.id()}}
	fourth := newBlock(delta{tombstones: gone, priority: 4}, []*dagBlock{third})
	named := newBlock(delta{elements: []element{{"/n", "named"}}, priority: 1, dag: "dag1"}, nil)
	for i, b := range []*dagBlock{first, second, third, fourth, named} {
		want := vectors[i]
		if got := hex.EncodeToString(b.raw); got != want.block {
			t.Errorf("block %d is %s, not %s", i, got, want.block)
		}
		if got := b.cid.String(); got != want.cid {
			t.Errorf("the CID of block %d is %s, not %s", i, got, want.cid)
		}
		if got := hex.EncodeToString(announcement(b)); got != want.announcement {
			t.Errorf("the announcement of block %d is %s, not %s", i, got, want.announcement)
		}
	}
}
