"""About 400 short everyday prompts, and a seeded split into training and held-out ones.

They are templates filled with hand-written words, chosen so that one or two sentences make a full
answer.
"""

from __future__ import annotations

import random
from typing import NamedTuple

# (template, fillers separated by commas): every filler makes one prompt.
TEMPLATES: tuple[tuple[str, str], ...] = (
    (
        "How do I {}?",
        "boil an egg, remove a coffee stain, fall asleep faster, sharpen a pencil, fold a "
        "shirt, keep bread fresh, cool down a hot room, clean a window, water a cactus, wrap "
        "a present, peel garlic quickly, tie a tie, whistle loudly, unclog a sink, ripen an "
        "avocado, save money on groceries, stop the hiccups, clean white shoes, make ice "
        "cubes clear, pack a small suitcase, read faster, remember names, change a light "
        "bulb, soothe a sunburn, calm a barking dog, iron a skirt, thread a needle, make weak "
        "tea stronger, get ink off my hands",
    ),
    (
        "What is {}?",
        "a rainbow, gravity, a black hole, photosynthesis, a sonnet, inflation, yeast, a "
        "vaccine, a haiku, the internet, a leap year, an eclipse, a fossil, the ozone layer, "
        "a synonym, compost, a mortgage, an allergy, a glacier, umami, a palindrome, jet lag, "
        "a comet, democracy, a prime number, static electricity, a monsoon, a metaphor, an "
        "atom, origami",
    ),
    (
        "Why {}?",
        "is the sky blue, do cats purr, do we yawn, is the sea salty, do leaves turn red in "
        "autumn, do onions make us cry, do birds migrate, does bread rise, do we dream, does "
        "ice float, do bees make honey, is exercise good for us, do we need sleep, do stars "
        "twinkle, does the moon change shape, do dogs wag their tails, does coffee keep us "
        "awake, do people laugh, does metal rust, do flamingos stand on one leg, does popcorn "
        "pop, is breakfast important",
    ),
    (
        "Give me one tip for {}.",
        "a job interview, learning Spanish, running my first race, a long flight, growing "
        "tomatoes, a first date, studying for an exam, taking better photos, public speaking, "
        "saving electricity, cooking rice, drawing faces, moving house, camping in the rain, "
        "playing chess, meeting new people, writing a speech, driving in snow, staying "
        "focused, baking a cake, learning the guitar, a tidy desk, travelling alone, raising "
        "a puppy, packing lunch, sleeping on a train, growing basil",
    ),
    (
        "Suggest a name for {}.",
        "a black kitten, a bakery, a sailing boat, a rock band, a goldfish, a detective in a "
        "novel, a friendly robot, a coffee shop, a dragon, a hiking club, a parrot, a flower "
        "shop, a space ship, a school newspaper, a lemonade stand, a toy bear, a bicycle "
        "shop, a wizard, a running team, a podcast about history, a lazy tortoise, a sweet "
        "shop, a pirate, a white horse",
    ),
    (
        "What should I {}?",
        "cook for dinner tonight, wear to a wedding, give my mother for her birthday, read on "
        "holiday, do on a rainy Sunday, bring to a picnic, plant in a shady garden, write in "
        "a thank-you card, do when I am bored, eat before a race, pack for the beach, say to "
        "a new neighbour, put in a salad, do about a noisy neighbour, drink on a hot day, ask "
        "at an interview, watch with my children, do if I lose my keys, put on a pizza, do "
        "first in the morning, buy for a new baby, do with stale bread, name my diary, plant "
        "in spring, say to a sad friend",
    ),
    (
        "Tell me a fact about {}.",
        "elephants, Mars, octopuses, chocolate, Iceland, penguins, the human heart, "
        "volcanoes, bananas, the Eiffel Tower, honey, sharks, the Amazon river, snow, trains, "
        "spiders, Ancient Egypt, whales, bamboo, lightning, owls, the Great Wall of China, "
        "coffee, kangaroos, salt, camels, the Moon, glass",
    ),
    (
        "Is it {}?",
        "safe to eat raw eggs, better to run or to walk, hard to learn the piano, rude to "
        "arrive early, cheaper to cook at home, healthy to skip lunch, possible to sneeze "
        "with open eyes, worth learning Latin, too late to change careers, good to drink tea "
        "at night, cold in Norway in May, dangerous to swim after eating, normal to talk to "
        "plants, true that bats are blind, wise to lend money to friends, fun to live in a "
        "big city",
    ),
    (
        "I {}. What now?",
        "burned the soup, missed my bus, forgot my friend's birthday, spilled juice on my "
        "laptop, feel nervous about tomorrow, locked myself out, got a bad grade, cannot "
        "sleep, found a lost wallet, broke a favourite cup, had a fight with my sister, ran "
        "out of milk, feel lonely this week, have too much homework, lost my umbrella, got a "
        "parking ticket, won a small prize, have a sore throat, overslept again, bought the "
        "wrong size",
    ),
    (
        "Write one sentence about {}.",
        "the sea, an old clock, a lazy afternoon, winter mornings, a busy market, friendship, "
        "a lost sock, my grandmother, a thunderstorm, an empty train, the first day of "
        "school, a brave mouse, fresh bread, a quiet library, the moon, a broken umbrella, "
        "city lights, a garden in spring, a long road, a birthday party, a paper boat, a "
        "stray dog, the night sky, an unexpected guest",
    ),
    (
        "Which {}?",
        "planet is the largest, fruit has the most vitamin C, animal sleeps the most, "
        "language is easiest to learn, country has the most people, metal is the lightest, "
        "month is the coldest in Canada, ocean is the deepest, colour goes well with green, "
        "instrument is easiest for a child, bird cannot fly, sport burns the most energy, "
        "tree grows the fastest, cheese is best on toast, pet is good for a small flat, tea "
        "helps with sleep",
    ),
    (
        "What is the difference between {}?",
        "weather and climate, a frog and a toad, jam and jelly, a lake and a pond, butter and "
        "margarine, a crocodile and an alligator, a novel and a short story, speed and "
        "velocity, a violin and a viola, sleet and hail, a street and an avenue, rice and "
        "barley, a moth and a butterfly, envy and jealousy, a hotel and a hostel, a mushroom "
        "and a plant",
    ),
    (
        "Explain {} to a child.",
        "rain, money, why we brush our teeth, how planes fly, what a doctor does, magnets, "
        "the seasons, recycling, where milk comes from, shadows, what a computer does, why we "
        "vote, germs, earthquakes, how a boat floats, what electricity is, kindness, how "
        "plants drink, taxes, a rainbow, why leaves fall, maps, dentists, sharing",
    ),
    (
        "Describe {} briefly.",
        "a perfect holiday, the taste of lemon, a desert at night, a good teacher, the smell "
        "of rain, a typical breakfast in Japan, a lighthouse, a giraffe, the sound of a "
        "cello, a snowy village, a crowded beach, a healthy lunch, your favourite season, a "
        "medieval castle, a summer evening, a jellyfish, a cosy living room, a rainforest",
    ),
    (
        "Can you recommend {}?",
        "a quick breakfast, a board game for four, an indoor plant, a hobby for the winter, a "
        "museum in Paris, a relaxing song, a healthy snack, an easy soup, a warm country in "
        "December, a stretch for my back, a good first instrument, a book about space, a game "
        "for a long car ride, a gift for a teacher, a dish without meat, a walk near water, a "
        "film for a rainy night, a sport for two",
    ),
    (
        "How {}?",
        "far away is the moon, long do turtles live, often should I water roses, hot is the "
        "sun, many bones do we have, tall is Mount Everest, much water should I drink, long "
        "does it take to boil pasta, fast is a cheetah, old is the Earth, much sleep does a "
        "teenager need, deep is the ocean, long is a football match, many strings has a harp, "
        "often should I brush my teeth, heavy is a blue whale",
    ),
    (
        "Help me {}.",
        "say sorry to a friend, ask for a day off, start a diary, thank my coach, invite "
        "neighbours to tea, choose between tea and coffee, plan a birthday dinner, wake up "
        "earlier, cheer up my brother, decline a party politely, name three breakfast ideas, "
        "begin a story about a fox, relax after work, introduce myself in class, spend less "
        "time on my phone, pick a colour for my kitchen, greet a customer, end a letter, "
        "practise patience, toast the bride and groom",
    ),
    (
        "What do you think of {}?",
        "Mondays, learning to cook, long walks, pineapple on pizza, old films, rainy days, "
        "getting up early, video games, living by the sea, school uniforms, handwritten "
        "letters, keeping a pet snake, working from home, jazz, electric cars, reading in "
        "bed, tattoos, spicy food, cold showers, big weddings",
    ),
)


class Split(NamedTuple):
    """Two disjoint lists of prompts."""

    train: list[str]
    held_out: list[str]


def all_prompts() -> list[str]:
    """Every prompt once, in a fixed order."""
    prompts = [
        template.format(filler.strip())
        for template, fillers in TEMPLATES
        for filler in fillers.split(",")
    ]
    return list(dict.fromkeys(prompts))


def split_prompts(seed: int, held_out: int = 80) -> Split:
    """Shuffle by ``seed`` and set ``held_out`` prompts aside; the same seed always gives the same
    split.

    Raises ValueError if ``held_out`` leaves no prompt to train on.
    """
    prompts = all_prompts()
    if not 0 <= held_out < len(prompts):
        raise ValueError(f"held_out must be from 0 to {len(prompts) - 1}, not {held_out}")
    random.Random(seed).shuffle(prompts)
    return Split(train=prompts[held_out:], held_out=prompts[:held_out])
