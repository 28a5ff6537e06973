package cover

import "time"

// A trade is the kind of small site that an install shows, as tables from
// which the seed draws. {place}, {river}, {first}, {second} (people), {day},
// {street} and {year} are filled in once per site.
type trade struct {
	names    []string // of the site
	lines    []string // below the name
	intro    []string // sentences for the home page
	about    []string // paragraphs
	offer    string   // heading of the list of things on offer
	lead     []string // sentence above that list
	items    []item
	posts    []post
	contact  []string // paragraphs
	noNews   string   // heading of the list of posts
	pictures []string // captions
}

type item struct{ name, detail, note string }

type post struct {
	title string
	text  []string
	month time.Month // when it makes sense; 0 means any time
}

var (
	firstHalves  = []string{"Alder", "Ash", "Bram", "Brook", "Cold", "Cran", "Crow", "Dun", "Elm", "Fern", "Gold", "Hart", "Hazel", "Holm", "Keld", "Lang", "Lin", "Marl", "Mill", "Nether", "Oak", "Otter", "Penn", "Raven", "Rush", "Sel", "Stan", "Thorn", "Wether", "Whit", "Win", "Yar"}
	secondHalves = []string{"beck", "bourne", "bridge", "bury", "by", "combe", "den", "dale", "field", "ford", "ham", "hurst", "ley", "low", "mere", "more", "stead", "stock", "ton", "well", "wick", "worth"}
	rivers       = []string{"Arle", "Brent", "Cole", "Dray", "Esk", "Fenn", "Gade", "Isle", "Kenn", "Lud", "Mease", "Nene", "Penk", "Rother", "Sence", "Tame", "Wharf", "Yeo"}
	people       = []string{"Alice", "Anders", "Beatriz", "Carol", "Clara", "Daniel", "Dorothy", "Edwin", "Elena", "Frances", "Frank", "Greta", "Harriet", "Henrik", "Ian", "Ines", "Joan", "Jonas", "Kate", "Lars", "Louise", "Marek", "Margaret", "Martin", "Nora", "Oliver", "Petra", "Philip", "Rosa", "Ruth", "Simon", "Stella", "Thomas", "Ursula", "Vera", "Walter"}
	days         = []string{"Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday"}
	streets      = []string{"Back Lane", "Bridge Street", "Chapel Row", "Church Walk", "Cross Street", "Forge Lane", "High Street", "Market Place", "Mill Road", "Old Station Yard", "Orchard Way", "Priory Lane", "Tanner's Yard", "The Green", "Weir Lane", "Wharf Road"}
)

var trades = []trade{
	{
		names: []string{"{place} Pottery", "{river} Valley Pottery", "{street} Pottery", "The {place} Kiln", "{first} & {second} Ceramics"},
		lines: []string{"Hand-thrown stoneware from the {river} valley", "A small studio for clay", "Pots for everyday use", "Studio, classes and a shelf of seconds"},
		intro: []string{
			"We make plain, sturdy pots that are meant to be used every day.",
			"The studio is on {street}, in what used to be a cart shed.",
			"Everything is thrown, glazed and fired here by two pairs of hands.",
			"Our glazes are mixed from wood ash, local clay and not much else.",
			"Visitors are welcome; please mind the step and the cat.",
			"If the door is shut the kiln is probably being packed, so knock loudly.",
		},
		about: []string{
			"{first} learned to throw in the evenings while working as a surveyor, and rented the shed in {place} in the spring that the day job ended. {second} joined two years later, first for the glazing and then for everything.",
			"We fire to stoneware in a gas kiln about every five weeks. A firing takes a day and a half, and we open the door a day after that, always too early.",
			"The clay is a buff body from a pit forty miles away. For slips we dig a little red clay from the bank of the {river}, with the farmer's blessing and for the price of a teapot.",
			"We sell most of what we make from the shelf in the studio, and a few times a year at markets nearby. We do not ship much: pots like to be picked up before they are bought.",
			"In winter the studio is heated by the kiln and by a stove of uncertain age. Bring a jumper.",
		},
		offer: "Classes",
		lead:  []string{"Classes have six places. Clay, glaze and firing are included.", "No experience is needed for any of these, only short fingernails."},
		items: []item{
			{"First turns", "Three hours at the wheel for people who never sat at one. You keep two pots.", "48"},
			{"Evening throwing", "Six evenings, {day}s from seven to nine. Beginners and others.", "165"},
			{"Hand building", "Slabs, coils and pinch pots, on a Sunday afternoon.", "42"},
			{"Glaze weekend", "Mixing, testing and dipping. Bring biscuit ware if you have some.", "120"},
			{"Children's clay", "Ages six to eleven, in the school holidays. Aprons provided.", "16"},
			{"Open wheel", "For people who know what they are doing. By the hour, any weekday.", "9"},
			{"A bowl and a meal", "Make a bowl in spring, come back in summer and eat soup from it.", "55"},
		},
		posts: []post{
			{"The seconds shelf", []string{"The shelf by the door is full again. Most of these have a drip, a crawl or a thumbprint that we did not intend, and all of them hold soup.", "Prices are written on the bottom in pencil. Put the money in the tin."}, 0},
			{"A firing that went wrong, a little", []string{"Cone nine dropped two hours before it should have, and we only noticed because {second} went out to feed the cat. The top shelf came out darker and shinier than planned.", "Nobody has complained yet. We have written the settings down in case we want to do it again."}, 0},
			{"New ash glaze", []string{"After eleven test tiles we have a glaze from apple ash that does not run off the pot. It is a soft grey-green, darker where it is thick.", "The ash comes from {first}'s brother, who prunes too much and burns what he prunes."}, 0},
			{"Closed for a week", []string{"We are closed from {day} for a week while the kiln gets new elements in its controller and we get a rest.", "Orders will be ready the week after. Thank you for waiting."}, time.August},
			{"Market on the green", []string{"We will be at the market in {place} with mugs, pouring bowls and a few large jars. Look for the blue awning.", "If it rains we shall be in the hall, next to the honey."}, time.June},
			{"Large jars", []string{"We tried larger jars this month: two pieces of four kilos each, joined when leather-hard. Three of five survived.", "They are for umbrellas or for flour, depending on the household."}, 0},
			{"A visit from the school", []string{"Year four came on {day} and made twenty-six owls. They are drying on the top shelf and look at us.", "Parents can collect them after the next firing."}, 0},
		},
		contact: []string{"The studio is open {day} to Saturday, ten to five, and on Sundays when the flag is out.", "There is room for two cars in the yard. The bus from the station stops at the end of {street}."},
		noNews:  "From the studio", pictures: []string{"The view from the kiln shed", "Early, before a firing", "The bank where the red clay is dug", "Up the valley"},
	},
	{
		names: []string{"{place} Cycle Workshop", "{street} Cycles", "{river} Bicycle Works", "{first}'s Bicycle Repairs", "The {place} Spoke"},
		lines: []string{"Repairs, wheels and second-hand bicycles", "We mend what others replace", "Honest repairs since the last century", "Bicycles, looked after"},
		intro: []string{
			"We repair bicycles of every age and most nations.",
			"Bring it in before noon and small jobs are usually done the same day.",
			"We tell you what it will cost before we start, and we keep the old parts for you to see.",
			"The workshop is on {street}; follow the smell of oil and coffee.",
			"If it is not worth mending we say so.",
			"Wheels are built by hand, laced by {first} and argued over by {second}.",
		},
		about: []string{
			"The shop opened when {first} ran out of room in the kitchen. The kitchen is a kitchen again, and the workshop has three stands, one lathe and a wall of freewheels that nobody makes any more.",
			"We like old frames. A good steel frame from fifty years ago wants new bearings, new cables and a saddle, and it will be going long after this year's carbon.",
			"{second} builds the wheels. A wheel takes about two hours, and then it stands overnight and is trued again in the morning.",
			"We are members of the trade body and insured, and we lend tools to people who bring them back.",
			"On the second {day} of the month the workshop is open to anyone who wants to do a job themselves, with somebody beside them who has done it before.",
		},
		offer: "Prices",
		lead:  []string{"Prices are for labour; parts are extra and always agreed first.", "These are the jobs we do most. Ask about the others."},
		items: []item{
			{"Basic service", "Brakes and gears adjusted, bolts checked, tyres pumped, everything oiled.", "35"},
			{"Full service", "Stripped, cleaned, new cables, bearings regreased, test ride.", "95"},
			{"Puncture", "While you wait, if you do not mind waiting for the kettle too.", "9"},
			{"Wheel true", "Per wheel. Broken spokes are a little more.", "14"},
			{"Hand-built wheel", "Labour only; we are glad to help you choose the parts.", "50"},
			{"Brake bleed", "Mineral oil or DOT, per brake.", "24"},
			{"Bottom bracket", "Fit or replace, any standard that we have a tool for.", "28"},
			{"Winter storage", "Dry and warm from November to March, with a basic service in spring.", "60"},
		},
		posts: []post{
			{"Second-hand bicycles in", []string{"Four have come out of the back room this week: a green tourer for somebody tall, two town bicycles with baskets, and a folding one that folds.", "All have been serviced and come with three months of free adjustment."}, 0},
			{"Salt", []string{"The roads have been salted, which is good for walking and bad for chains. Rinse the bicycle with a can of plain water when you get home, and oil the chain once a week.", "We sell the oil but any oil is better than none."}, time.January},
			{"The lathe is back", []string{"After a month and a half in pieces the lathe turns again. {first} found the missing gear in a box marked 'pedals'.", "We can cut spacers and make odd axles once more."}, 0},
			{"Open evening", []string{"The next open evening is on {day} from six. Bring your bicycle, a rag and the thing that does not work.", "{second} will show how to set up a derailleur without swearing."}, 0},
			{"Summer opening hours", []string{"From June to the end of August we open at eight, so that you can leave the bicycle on the way to work.", "We still close at five because the ferry does."}, time.May},
			{"A tandem for sale", []string{"We have been asked to find a home for a tandem. It is blue, it is long, and it has been twice to the sea.", "Come and try it, in pairs."}, 0},
			{"Tyres again", []string{"The tyres that everybody asks for are in stock again in the three usual sizes. We have put some aside for the people on the list.", "If you are on the list and no longer want them, please tell us."}, 0},
		},
		contact: []string{"Open {day} to Saturday, nine to five, closed for lunch when the queue allows.", "Write before bringing anything with an electric motor; we do some makes and not others."},
		noNews:  "Workshop notes", pictures: []string{"The road to the coast", "A test ride, early", "Over the top on the old road", "Home before dark"},
	},
	{
		names: []string{"{place} Ramblers", "{river} Valley Walkers", "{place} Footpath Society", "The {day} Walkers", "{place} Walking Group"},
		lines: []string{"Walks in and around the {river} valley", "Every second {day}, whatever the weather", "Keeping the old paths open", "A friendly walking group"},
		intro: []string{
			"We walk every second {day}, all year round.",
			"New walkers are welcome, and your first three walks are free.",
			"Most walks are between six and ten miles, with a stop for sandwiches.",
			"We also clear paths, mend stiles and write letters about gates.",
			"Dogs are welcome on walks marked with a paw, on a lead near sheep.",
			"Bring boots, something waterproof and something to eat.",
		},
		about: []string{
			"The group began when {first} put a card in the window of the post office, asking whether anybody knew where the path behind the mill had gone. Eleven people knew, and they all disagreed.",
			"We now have about sixty members, of whom twenty turn up on a fine day and seven on a wet one.",
			"Each walk has a leader who has walked it within the month before and knows which bridge is out. If you would like to lead one, speak to {second}, who has the maps.",
			"Twice a year we have a working party. The council lends tools, we bring cake, and by the evening there is a path where there was a hedge.",
			"Membership runs from January and pays for insurance, printing and the hire of the hall for the annual meeting.",
		},
		offer: "Programme",
		lead:  []string{"We meet at the car park by the church at half past nine unless it says otherwise.", "Distances are in miles and, we are told, optimistic."},
		items: []item{
			{"Along the {river}", "Flat and muddy, by the towpath to the weir and back by the other bank.", "7"},
			{"The three churches", "Some road. The middle one has the good bench.", "9"},
			{"Beacon and back", "One long climb, one long view, one long descent.", "8"},
			{"Old railway", "Level, dry underfoot, suitable for pushchairs as far as the viaduct.", "5"},
			{"Bluebell walk", "Slow, with stops. Please stay on the path.", "4"},
			{"Boundary walk", "The whole parish boundary in one day. Leave from the hall at eight.", "17"},
			{"Evening stroll", "Midsummer, starting at seven, ending at the inn.", "4"},
			{"The far woods", "By train to the next station and back on foot.", "10"},
			{"New year's walk", "Short, for obvious reasons.", "3"},
		},
		posts: []post{
			{"The bridge at the weir", []string{"The footbridge below the weir is closed until the council has looked at the handrail. The way round by the lane adds half a mile.", "We have asked for a date and been promised one."}, time.February},
			{"Working party", []string{"Fourteen of us met on {day} and cleared the path from the chapel to the long field. It can be walked in shorts again.", "Thanks to {first} for the brambles and to {second} for the flapjack."}, time.March},
			{"Programme for the next quarter", []string{"The new programme is on this site and on the board outside the hall. There are two longer walks this time, and one that goes by train.", "Leaders, please check your dates."}, 0},
			{"Lost and found", []string{"Found after the last walk: one walking pole, grey, and one child's glove, red. Both are with {second}.", "Lost: a flask. It has sentimental value and some tea in it."}, 0},
			{"Annual meeting", []string{"The annual meeting is in the hall on {day} at half past seven. There will be a report, an election and photographs of mud.", "The committee is willing to stand again but would not mind company."}, time.November},
			{"A good day on the tops", []string{"Nineteen walkers, two dogs and no rain. From the cairn we could see as far as the sea, or a cloud that looked like it.", "Back by four, with one blister between us."}, time.September},
			{"Stiles", []string{"Three more stiles have been replaced with gates, paid for by the legacy of a member who could no longer climb them.", "There is a small plaque on the second one."}, 0},
			{"Ticks", []string{"It is a good year for ticks. Tuck your trousers into your socks and check afterwards.", "Nobody will laugh, or not much."}, time.June},
		},
		contact: []string{"Write to us if you would like to come along; we shall tell you where to stand on {day}.", "Path problems are best reported with a grid reference and a photograph."},
		noNews:  "News", pictures: []string{"From the beacon, looking west", "Morning above the {river}", "The long field in autumn", "Last light on the tops"},
	},
	{
		names: []string{"{place} Bakehouse", "{street} Bakery", "The {river} Oven", "{first}'s Bread", "{place} Bread Co-op"},
		lines: []string{"Slow bread from a wood oven", "Sourdough, rye and buns", "Bread four days a week", "Flour, water, salt and time"},
		intro: []string{
			"We bake four days a week and sell until it is gone.",
			"Our flour is milled eleven miles away and has usually been wheat until quite recently.",
			"All our loaves are leavened with a culture that is older than the shop.",
			"The shop is on {street}, behind the blue door.",
			"Order by noon for the next bake and we put your loaf aside.",
			"On {day}s there are buns.",
		},
		about: []string{
			"{first} started with one oven in a garage and eleven neighbours who paid in advance. The neighbours are still customers; the garage has a car in it again.",
			"The dough is mixed in the afternoon, shaped in the evening and baked from four in the morning. {second} does the mixing, and is not to be spoken to before six.",
			"The oven is fired with ash and oak from the coppice at {place}. It takes a day to heat and two days to cool, so nothing is wasted if we dry apples in it at the end.",
			"We use organic flour where we can get it and good flour where we cannot. The ingredients of every loaf are on its label and are usually three.",
			"What is left at closing time goes to the community kitchen.",
		},
		offer: "What we bake",
		lead:  []string{"Not everything every day: look at the board, or ask.", "All loaves are about 800 grams unless it says otherwise."},
		items: []item{
			{"House loaf", "Wheat with a fifth of wholemeal, long fermented. The one to start with.", "4.20"},
			{"Dark rye", "Dense, moist, keeps for a week. Better on the second day.", "4.60"},
			{"Seeded", "Sunflower, linseed and pumpkin, toasted first.", "4.80"},
			{"Tin loaf", "White, soft, for sandwiches and for toast.", "3.60"},
			{"Spelt", "Lighter than you think.", "5.10"},
			{"Flat bread with onions", "When the oven is too hot for anything else.", "3.00"},
			{"Cardamom bun", "One is enough. Nobody believes this.", "2.40"},
			{"Oat biscuits", "In a paper bag, by the dozen.", "3.50"},
			{"Sunday rolls", "To finish in your own oven. Saturdays only.", "0.70"},
		},
		posts: []post{
			{"New flour", []string{"This year's wheat has arrived from the mill. It drinks more water than last year's, and the first two bakes were a little flat while we got to know each other.", "By {day} we were friends."}, time.September},
			{"Holiday bread", []string{"Please order holiday loaves a week ahead. The list is on the counter, and there is a line for how many and a line for your name; people forget the second.", "We bake on the eve and then close for six days."}, time.December},
			{"The oven, rebuilt", []string{"The floor of the oven had worn into a valley. {first} and a mason spent a week inside it, and it is level again.", "The first loaves were pale, the second black, the third right."}, 0},
			{"Baking day", []string{"We are having another day for people who want to learn: mixing, shaping, waiting and eating. Eight places, on a {day}.", "You take home a loaf, a jar of starter and flour in your hair."}, 0},
			{"Apples", []string{"If you have more apples than you can use, bring them. We bake with them while they last, and for every two kilos there is a bun.", "No windfalls with wasps in, please. We had that last year."}, time.September},
			{"Prices", []string{"Flour and wood have both become dearer and our prices go up a little from the first of the month. The tin loaf stays as it is.", "Thank you for being kind about it."}, 0},
			{"Open at eight", []string{"We now open at eight instead of nine, because some of you were there at eight anyway.", "The rye is still warm then, and must not be cut."}, 0},
		},
		contact: []string{"Open {day} to Saturday from eight until we have sold out, which is usually about two.", "For orders, write the day before or leave a note in the box by the door."},
		noNews:  "From the oven", pictures: []string{"Four in the morning", "The fields behind the mill", "Where the flour comes from", "The coppice in winter"},
	},
	{
		names: []string{"{place} Bird Notes", "{river} Valley Bird Group", "{place} Bird Club", "Birds of {place}", "{place} Ringing Group"},
		lines: []string{"Records and walks since 1987", "What flew past, and when", "Counting birds on the {river}", "A field diary kept by many hands"},
		intro: []string{
			"This is the diary of a small group that watches birds around {place}.",
			"We count on the first {day} of each month, from the bridge to the reed bed.",
			"Records come from members and from anybody who writes to us.",
			"Beginners are welcome on every walk; we have spare binoculars.",
			"Our reports go to the county recorder each winter.",
			"There are usually more ducks than we say.",
		},
		about: []string{
			"The group was started by four people who kept meeting in the same hide and found it awkward not to speak.",
			"Our patch is the flood plain of the {river} between the two bridges, with the gravel pits, the reed bed and the wood above. In forty years we have seen 203 kinds of birds here, and 61 of them nest.",
			"{first} keeps the records, in a card index and since recently on a computer. {second} leads most of the walks and knows where to stand.",
			"We put up nest boxes for swifts, tits and owls, and look after the sand martin wall. Boxes are cleaned in November, in gloves.",
			"We do not publish where rare birds nest. Please do not either.",
		},
		offer: "Walks and counts",
		lead:  []string{"All walks start at the lay-by near the bridge, if nothing else is said.", "Bring warm clothes; standing still is colder than walking."},
		items: []item{
			{"Monthly count", "First {day} of the month at eight. The whole round takes three hours.", "8:00"},
			{"Dawn chorus", "One morning in May. Tea afterwards.", "4:15"},
			{"Swift evening", "July, from the churchyard, with the bat people.", "20:30"},
			{"Winter ducks", "The gravel pits, with telescopes. January and February.", "9:30"},
			{"Owls", "February. Very slow, very quiet, quite cold.", "17:00"},
			{"Box cleaning", "November. Ladders and gloves are provided.", "10:00"},
			{"Ringing demonstration", "September, at the reed bed, if there is no wind.", "7:00"},
			{"Beginners' walk", "April and October. What a chiffchaff says, and why.", "9:00"},
		},
		posts: []post{
			{"First swallow", []string{"Seen over the mill pond by {first} on {day}, two days earlier than last year and six days later than the record.", "It did not stay. There were eleven by the end of the week."}, time.April},
			{"The winter count", []string{"1,214 birds of 43 kinds. Teal were up, lapwings down, and coots as always innumerable but numbered.", "Thanks to the nine who came, and to the farmer who pulled out the car."}, time.January},
			{"Sand martins", []string{"The wall that we dug out in March has been accepted. At least thirty holes are in use and the neighbours are noisy.", "Please watch from the far bank."}, time.May},
			{"A bittern, probably", []string{"Heard at dusk from the reed bed by three of us, one of whom is careful. We are writing it down as probable.", "If you hear something like a person blowing over a bottle, write to us."}, time.March},
			{"Box report", []string{"Of 74 boxes 58 were used, most of them by great tits, four by bees and one by a dormouse, which we closed again and tiptoed away from.", "The owl box on the barn raised three."}, time.November},
			{"Geese", []string{"Skeins have been passing since {day}, most of them at night. The largest so far had about 240 birds and took the length of breakfast.", "They come down on the far pit, where nobody walks."}, time.October},
			{"The hide has a roof again", []string{"The storm took it and {second} has brought it back. The bench is new as well.", "Please shut the flaps when you leave, or the wrens move in."}, 0},
			{"Kingfisher on the weir", []string{"A pair is back below the weir. The bank there is soft, so please stay on the path: one careless foot and the tunnel is gone.", "Best seen from the bridge before nine."}, time.April},
		},
		contact: []string{"Send us what you saw, with the date, the place and how sure you are.", "The next meeting is in the back room on {day} at half past seven; there are slides."},
		noNews:  "Diary", pictures: []string{"The flood plain at first light", "Towards the reed bed", "The pits in December", "Evening, geese somewhere"},
	},
	{
		names: []string{"{place} Community Garden", "{street} Allotments", "{river}side Gardens", "The {place} Growers", "{place} Seed Swap"},
		lines: []string{"Forty plots between the railway and the {river}", "Grow, swap, share", "Vegetables and good company", "Digging since the old days"},
		intro: []string{
			"We are forty plots, two beehives and one very long hose.",
			"Anyone in {place} can put their name on the list for a plot.",
			"On {day} mornings somebody is always there and the kettle is on.",
			"We swap seeds in February and surplus courgettes from July until we are begged to stop.",
			"The gate on {street} is open when the green flag is up.",
			"No plot is ever finished, and neither is this page.",
		},
		about: []string{
			"The land belongs to the parish and was a coal yard until the branch line closed. It took the first gardeners three winters to carry the clinker out and the compost in.",
			"{first} looks after the list and the money; {second} looks after the water, the mower and the peace.",
			"Each plot is about a hundred square metres, and halves can be had. We ask that you grow something, keep the paths clear and come to one working morning a season.",
			"The orchard along the fence is for everybody. There are eleven apples, three plums and a quince, and a picture on the shed that shows which is which.",
			"We do not use slug pellets. We have tried most of the other things, and the hedgehogs are the best of them.",
		},
		offer: "Through the year",
		lead:  []string{"Everyone may come to these, plot or no plot.", "Dates are on the shed door and, when we remember, here."},
		items: []item{
			{"Seed swap", "Bring labelled seed, take labelled seed. The hall, from ten.", "February"},
			{"Potato morning", "We buy seed potatoes together and share them out by weight.", "March"},
			{"Plant sale", "Tomatoes, beans, squashes and a table of things nobody can name.", "May"},
			{"Open gardens", "Tea in the orchard. Children look for the painted stones.", "June"},
			{"Honey day", "The bees are opened, from a respectful distance.", "August"},
			{"Apple pressing", "Bring clean bottles. Wasps attend as well.", "September"},
			{"Hedge and tools", "The working morning with the most biscuits.", "November"},
			{"Grafting", "{second} shows how to turn one apple into another.", "January"},
		},
		posts: []post{
			{"Water is on", []string{"The taps were turned on this week. Please check that yours is off when you leave: on {day} one was not, and plot nine is now a pond.", "The frogs have been told that it is temporary."}, time.April},
			{"The list is shorter", []string{"Three plots changed hands this spring, and the wait is down to about a year. Welcome to the new people; the couch grass says hello.", "Half plots are quicker."}, time.May},
			{"Blight", []string{"Blight has been seen on two plots. Take off affected leaves, do not compost them, and lift the potatoes sooner rather than later.", "The late variety by the fence still looks well."}, time.July},
			{"Plant sale, the result", []string{"We sold nearly everything and made enough for the new hose. What was left was given to the school.", "The thing nobody could name turned out to be a yacón."}, time.May},
			{"Bees", []string{"Both hives came through the winter. {first} has put on supers and asks that nobody mows near them in the afternoon.", "There will be honey if the limes flower as they should."}, time.April},
			{"Frost", []string{"Minus two on {day} night, which is late even for us. Beans that were out are gone; those under fleece are sulking but alive.", "There are spare seedlings in the polytunnel, left side. Help yourself."}, time.May},
			{"A shed", []string{"The new shed stands. It has a window, a door that shuts, and a shelf for books that have been rained on only once.", "The old one is now a compost bay, which it already was in spirit."}, 0},
			{"Pressing day", []string{"Two hundred and ten litres, no injuries. The quince went in as well, and it was right to.", "The pulp went to the pigs at the top of the lane, who were pleased."}, time.October},
		},
		contact: []string{"Come by on a {day} between nine and noon, or write and we answer after the weeding.", "For the list please give your name, your street and whether half a plot would do."},
		noNews:  "Plot notes", pictures: []string{"Over the fence, early", "The orchard end", "After the frost", "Looking towards the {river}"},
	},
}
